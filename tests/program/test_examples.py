"""The embedding examples as their users would run them. ASIO_SERVICE and BOOST_SERVICE name the programs."""
import json
import os
import signal
import socket
import subprocess
import threading
import time
import unittest

from support import ROOT, SLOWER, SMOLLM2, TINY, ProgramTest, environment, need_smollm2, run

ASIO_SERVICE = os.environ.get("ASIO_SERVICE", str(ROOT / "build/release/asio_service"))
BOOST_SERVICE = os.environ.get("BOOST_SERVICE", str(ROOT / "build/release/boost_service"))


class AsioService(ProgramTest):
    def start(self, model):
        process = subprocess.Popen([ASIO_SERVICE, str(model)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        self.addCleanup(lambda: (process.poll() is None and process.kill(), process.communicate()))
        line = process.stdout.readline().decode()
        self.assertTrue(line.startswith("listening on "), line or process.stderr.read().decode())
        self.port = int(line.split()[-1])
        return process

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.port), 60 * SLOWER)
        self.addCleanup(s.close)
        return s

    def answer_of(self, model, prompt):
        done = run("generate", model, "--prompt", prompt, "-n", 48, "--temperature", 0, "--json")
        return json.loads(done.stdout)["text"].encode() + b"\n\n"

    def expect(self, s, want):
        got = b""
        while len(got) < len(want):
            part = s.recv(len(want) - len(got))
            self.assertTrue(part, f"closed after {got!r}")
            got += part
        self.assertEqual(got, want)

    def stop(self, process):
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(30 * SLOWER), 0)
        self.assertLess(time.monotonic() - started, 15 * SLOWER)
        self.assertEqual(process.stderr.read(), b"")

    def test_a_line_in_the_programs_text_out(self):
        for model in (TINY, SMOLLM2):
            need_smollm2(self)
            process = self.start(model)
            s = self.connect()
            for prompt in ("The capital of France is", "Once upon a time", "The capital of France is"):
                s.sendall(prompt.encode() + b"\n")
                self.expect(s, self.answer_of(model, prompt))
            s.sendall(b"quit\n")
            self.assertEqual(s.recv(100), b"")
            self.stop(process)

    def test_clients_at_once(self):
        need_smollm2(self)
        process = self.start(SMOLLM2)
        prompts = ["The sun is", "Water boils at", "My favourite colour is", "In the year 1969"]
        wanted = [self.answer_of(SMOLLM2, p) for p in prompts]
        errors = []

        def client(i):
            try:
                s = self.connect()
                for k in range(3):
                    s.sendall(prompts[(i + k) % 4].encode() + b"\n")
                    self.expect(s, wanted[(i + k) % 4])
            except BaseException as e:
                errors.append(e)

        threads = [threading.Thread(target=client, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(errors, [])
        self.stop(process)

    def test_a_client_that_hangs_up(self):
        need_smollm2(self)
        process = self.start(SMOLLM2)
        want = self.answer_of(SMOLLM2, "The sun is")
        for k in range(5):
            s = self.connect()
            s.sendall(b"Once upon a time\n")
            if k % 2:
                s.recv(1)
            s.close()
        s = self.connect()
        s.sendall(b"The sun is\n")
        self.expect(s, want)
        self.stop(process)

    def test_sigterm_while_an_answer_runs(self):
        need_smollm2(self)
        process = self.start(SMOLLM2)
        s = self.connect()
        s.sendall(b"Once upon a time\n")
        s.recv(1)
        self.stop(process)

    def test_without_a_model(self):
        done = subprocess.run([ASIO_SERVICE, "/nowhere.gguf"], capture_output=True, timeout=60, env=environment())
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"/nowhere.gguf", done.stderr)


class BoostService(ProgramTest):
    def test_one_answer_and_one_cancellation(self):
        need_smollm2(self)
        done = subprocess.run([BOOST_SERVICE, str(SMOLLM2)], capture_output=True, timeout=60 * SLOWER, env=environment())
        want = json.loads(run("generate", SMOLLM2, "--prompt", "The capital of France is", "-n", 16, "--temperature", 0, "--ignore-eos", "--json").stdout)["text"]
        self.assertEqual(done.stdout.decode(), f"answer:{want}\nthe long one was cancelled\n")
        self.assertEqual((done.returncode, done.stderr), (0, b""))


if __name__ == "__main__":
    unittest.main()
