"""--plan-log of serve and generate, and troupe replay."""
import json
import struct
import threading
import unittest

from support import TINY, TINY_QUANT, ProgramTest, Server, run


class Replay(ProgramTest):
    def serve(self, log, *options, model=TINY):
        """A server under a mixed load: streams to their end, streams that are dropped, penalties, several choices, few pages."""
        with Server(model, "--plan-log", log, *options) as server:
            def ask(i):
                server.post("/v1/completions", {"prompt": "Once upon a time " * (1 + i % 7), "max_tokens": 20 + 5 * (i % 9), "seed": i,
                                                "temperature": 0 if i % 3 == 0 else 0.9, "top_p": 0.9 if i % 4 == 1 else 1,
                                                "repetition_penalty": 1.2 if i % 5 == 2 else 1, "n": 2 if i % 6 == 5 else 1,
                                                "ignore_eos": True})

            def drop(i):
                stream = server.stream("/v1/completions", {"prompt": "A long story " * (1 + i % 5), "max_tokens": 200, "seed": 50 + i,
                                                           "ignore_eos": True})
                for n, _ in enumerate(stream):
                    if n == 3 + i:
                        stream.close()
                        return

            threads = [threading.Thread(target=f, args=(i,)) for i in range(12) for f in (ask, drop)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertTrue(server.idle())
            metrics = server.metrics()
            server.terminate()
            self.assertEqual(server.wait(), 0, server.log())
        self.assertGreater(metrics["vllm:num_preemptions_total"], 0)
        return metrics

    def test_a_server_s_steps_give_the_same_tokens_again(self):
        log = self.folder / "plans"
        pages = 24 * 16 * 3 * 2 * 4 * 16 * 2  # 24 pages of TINY: keys and values of f16
        self.serve(log, "--kv-cache-memory-bytes", pages, "--max-num-seqs", 8, "--max-num-batched-tokens", 40)
        said = json.loads(self.succeed("replay", TINY, "--plan-log", log, "--json"))
        self.assertEqual(said["differences"], 0, said)
        self.assertGreater(said["steps"], 100)
        self.assertGreater(said["tokens"], 400)
        device = said["device"]  # that of the server
        # In words, by the model's path in the log, and with another number of threads.
        words = self.succeed("replay", "--plan-log", log, "--threads", 1).decode()
        self.assertEqual(words, f"{said['steps']} steps, {said['tokens']} tokens on {device}: all equal\n")

        content = log.read_bytes()
        other = self.folder / "other"
        with self.subTest("another model"):
            self.fail_with(2, "replay", TINY_QUANT, "--plan-log", log, names=(log.name, "another model"))
        with self.subTest("cut off"):
            other.write_bytes(content[:len(content) * 2 // 3])
            part = json.loads(self.succeed("replay", TINY, "--plan-log", other, "--json"))
            self.assertEqual(part["differences"], 0)
            self.assertLess(part["steps"], said["steps"])
        with self.subTest("damaged"):
            other.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
            self.fail_with(2, "replay", TINY, "--plan-log", other, names=(other.name, "damaged"))
        with self.subTest("no log"):
            other.write_bytes(b"hello")
            self.fail_with(2, "replay", TINY, "--plan-log", other, names=other.name)
            self.fail_with(2, "replay", TINY, "--plan-log", self.folder / "none", names="none")
        with self.subTest("an answer that is another"):
            other.write_bytes(other_answer(content))
            done = self.fail_quietly(1, "replay", TINY, "--plan-log", other)
            self.assertIn("1 rows differ, the first in step ", done)
            self.assertIn("logged token ", done)

    def fail_quietly(self, code, *arguments):
        """A negative answer: on stdout, nothing on stderr."""
        done = run(*arguments)
        self.assertEqual((done.returncode, done.stderr), (code, b""))
        return done.stdout.decode()

    def test_generate_logs_too(self):
        log = self.folder / "plans"
        tokens = json.loads(self.succeed("generate", TINY_QUANT, "--tokens", self.file("ids", "1 2 3 4"), "-n", 30, "--ignore-eos", "--json",
                                         "--plan-log", log))["tokens"]
        said = json.loads(self.succeed("replay", TINY_QUANT, "--plan-log", log, "--json"))
        self.assertEqual((said["tokens"], said["differences"]), (len(tokens), 0))
        self.fail_with(2, "generate", TINY_QUANT, "--tokens", self.file("ids", "1 2"), "--plan-log", self.folder / "no" / "log",
                       names="plan_log")

    def test_random_weights_are_made_again(self):
        config = self.file("config.json", (TINY.parent / "config.json").read_text())
        log = self.folder / "plans"
        for model in (self.folder, config):
            self.succeed("generate", model, "--load-format", "dummy", "--prompt", "one two", "-n", 30, "--ignore-eos", "--plan-log", log)
            for given in ((), (self.folder,), (config,)):
                with self.subTest(model=model, given=given):
                    said = json.loads(self.succeed("replay", *given, "--plan-log", log, "--json"))
                    self.assertEqual((said["tokens"], said["differences"]), (30, 0))
        other = self.file("other.json", config.read_text().replace('"intermediate_size": 128', '"intermediate_size": 96'))
        self.fail_with(2, "replay", other, "--plan-log", log, names=(log.name, "another model"))

    def test_a_full_disk_does_not_stop_the_server(self):
        with Server(TINY, "--plan-log", "/dev/full") as server:
            for _ in range(3):
                self.assertEqual(server.post("/v1/completions", {"prompt": "Once", "max_tokens": 20}).status, 200)
            server.terminate()
            self.assertEqual(server.wait(), 0, server.log())
            self.assertEqual(server.log().count("/dev/full"), 1, server.log())


def other_answer(content):
    """The log with another token in its last answer, its checks made good again."""
    def fnv(data):
        h = 0xcbf29ce484222325
        for b in data:
            h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
        return h

    at, found = 8, None
    while at + 24 <= len(content):
        kind, size = struct.unpack_from("<II", content, at)
        if kind == 3 and size >= 40 and struct.unpack_from("<i", content, at + 24 + 24 + 4)[0] >= 0:
            found = (at, size)
        at += 24 + size
    at, size = found
    payload = bytearray(content[at + 24:at + 24 + size])
    token = struct.unpack_from("<i", payload, 28)[0]
    struct.pack_into("<i", payload, 28, (token + 1) % 448)
    head = struct.pack("<IIQ", 3, size, fnv(payload))
    return content[:at] + head + struct.pack("<Q", fnv(head)) + bytes(payload) + content[at + 24 + size:]


if __name__ == "__main__":
    unittest.main()
