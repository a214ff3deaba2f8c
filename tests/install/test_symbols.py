"""What libtroupe.so exports: only names of namespace troupe, and none of the libraries inside it. LIBTROUPE names the file."""
import os
import pathlib
import re
import subprocess
import unittest

LIBRARY = os.environ.get("LIBTROUPE", str(pathlib.Path(__file__).resolve().parents[2] / "build/release/libtroupe.so"))
PUBLIC = re.compile(r"^((typeinfo|typeinfo name|vtable|VTT|guard variable) for )?(virtual thunk to |non-virtual thunk to )?troupe::")


def exported():
    done = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True)
    mangled = [line.split()[-1] for line in done.stdout.splitlines()]
    names = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout.splitlines()
    return list(zip(mangled, names))


class Symbols(unittest.TestCase):
    def test_every_exported_symbol_is_troupes(self):
        symbols = exported()
        self.assertGreater(len(symbols), 20)
        strangers = [f"{name} ({mangled})" for mangled, name in symbols if not PUBLIC.match(name)]
        self.assertEqual(strangers, [])

    def test_what_embedders_call_is_there(self):
        names = "\n".join(name for _, name in exported())
        for wanted in ("troupe::engine::open(", "troupe::engine::open_port(", "troupe::engine::~engine()", "troupe::port::submit(", "troupe::port::poll()",
                       "troupe::category()", "typeinfo for troupe::error", "vtable for troupe::stream_sink"):
            self.assertIn(wanted, names)

    def test_modules_stay_inside(self):
        inner = [name for _, name in exported()
                 if re.search(r"\btroupe::(base|mail|format|text|model|sample|kernels|cpu|cache|sched|wire|watch|runtime|front|edge|rank)::", PUBLIC.sub("troupe::", name.split("(")[0]))]
        self.assertEqual(inner[:20], [])


if __name__ == "__main__":
    unittest.main()
