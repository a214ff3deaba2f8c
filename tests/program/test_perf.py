"""The scripts of perf/ import what they need of each other."""
import pathlib
import subprocess
import sys
import unittest

PERF = pathlib.Path(__file__).resolve().parents[2] / "perf"


class Scripts(unittest.TestCase):
    def test_imports(self):
        scripts = sorted(p.stem for p in PERF.glob("*.py"))
        self.assertIn("gpu_start", scripts)
        for name in scripts:
            with self.subTest(name):
                done = subprocess.run([sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, {str(PERF)!r}); import {name}"],
                                      capture_output=True, text=True, timeout=60)
                self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
