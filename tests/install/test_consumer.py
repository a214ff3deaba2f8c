"""`cmake --install` into a fresh prefix, then a stranger's CMake project over it. TROUPE_BUILD names the build folder."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "program"))
from support import ROOT, TINY, environment  # noqa: E402

BUILD = os.environ.get("TROUPE_BUILD", str(ROOT / "build/release"))
COMPILER = os.environ.get("CXX", "clang++-19")


def call(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=900, **options)
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls._folder = tempfile.TemporaryDirectory(prefix="troupe-install-")
        cls.prefix = pathlib.Path(cls._folder.name) / "prefix"
        call("cmake", "--install", BUILD, "--prefix", cls.prefix)

    @classmethod
    def tearDownClass(cls):
        cls._folder.cleanup()

    def installed_library(self):
        (library,) = self.prefix.glob("lib*/**/libtroupe.so")
        return library

    def test_the_tree(self):
        self.assertTrue((self.prefix / "bin/troupe").exists())
        headers = {p.relative_to(self.prefix / "include") for p in (self.prefix / "include").rglob("*.*pp")}
        source = {p.relative_to(ROOT / "include") for p in (ROOT / "include").rglob("*.*pp")}
        self.assertEqual(headers, source)
        self.installed_library()

    def test_the_installed_program_runs(self):
        self.assertRegex(call(self.prefix / "bin/troupe", "--version", env=environment()), r"^\d+\.\d+\.\d+\n$")

    def test_headers_need_no_others(self):
        """Each public header compiles by itself over the installed tree (and over Asio where it names it)."""
        asio = ["-DASIO_STANDALONE", "-DASIO_HAS_CO_AWAIT=1", "-DASIO_HAS_STD_COROUTINE=1", "-DASIO_HAS_STD_ALIGNED_ALLOC=1",
                "-DBOOST_ASIO_HAS_CO_AWAIT=1", "-DBOOST_ASIO_HAS_STD_COROUTINE=1", "-DBOOST_ASIO_HAS_STD_ALIGNED_ALLOC=1"]
        for header in sorted((self.prefix / "include/troupe").glob("*.hpp")):
            with self.subTest(header=header.name):
                call(COMPILER, "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c++", *asio, f"-I{self.prefix / 'include'}", "-",
                     input=f"#include <troupe/{header.name}>\n#include <troupe/{header.name}>\n")

    def test_a_strangers_project(self):
        work = pathlib.Path(self._folder.name) / "consumer"
        call("cmake", "-S", HERE / "consumer", "-B", work, f"-DCMAKE_PREFIX_PATH={self.prefix}", f"-DCMAKE_CXX_COMPILER={COMPILER}", "-DCMAKE_BUILD_TYPE=Release")
        call("cmake", "--build", work)
        said = call(work / "consumer", TINY, "Once upon a time", env=environment())
        want = json.loads(call(self.prefix / "bin/troupe", "generate", TINY, "--prompt", "Once upon a time", "-n", 24, "--temperature", 0, "--ignore-eos", "--json",
                               env=environment()))
        self.assertEqual(said, want["text"])
        done = subprocess.run([work / "consumer", "/nowhere.gguf", "x"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn("/nowhere.gguf", done.stderr)


if __name__ == "__main__":
    unittest.main()
