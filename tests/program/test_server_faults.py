"""A server that loses its rank, by faults injected on purpose: what its clients and its keeper see."""
import contextlib
import http.client
import json
import threading
import time
import unittest

from support import SLOWER, TINY, ProgramTest, Server, run

TIMEOUT = round(2 * SLOWER)  # seconds; what the watchdog is told
STEP = 350                   # where the fault happens: late enough for every client to have begun, before any has ended
LONG = {"max_tokens": 480, "temperature": 0, "ignore_eos": True}
RANK_FAILED = {"message", "type", "param", "code"}


class Probes:
    """Asks /ready and /health again and again, as a load balancer does, until nobody answers."""

    def __init__(self, server):
        self.server, self.seen, self.bodies = server, {"/ready": [], "/health": []}, {}
        self.thread = threading.Thread(target=self.ask)
        self.thread.start()

    def ask(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                for path, seen in self.seen.items():
                    reply = self.server.get(path, timeout=10)
                    self.bodies[path, reply.status] = reply
                    seen.append(reply.status)
                time.sleep(0.03)


class LostRank(ProgramTest):
    def check_error(self, error, *words):
        self.assertEqual(set(error), RANK_FAILED)
        self.assertEqual(error["code"], "rank_failed")
        for word in words:
            self.assertIn(word, error["message"])

    def lose(self, fault, *words, rank=None, options=()):
        where = f"step={STEP}:{fault}" if rank is None else f"rank={rank}:step={STEP}:{fault}"
        with Server(TINY, "--inject-fault", where, "--step-timeout", TIMEOUT, *options) as server:
            probes = Probes(server)
            chat = {"messages": [{"role": "user", "content": "Hi"}], **LONG, "max_tokens": 450}
            streams = [server.stream("/v1/completions", {"prompt": f"Story {i}:", **LONG}) for i in range(4)]
            streams.append(server.stream("/v1/chat/completions", chat))
            for s in streams:
                self.assertEqual(s.status, 200)
            whole = []
            waiting = threading.Thread(target=lambda: whole.append(server.post("/v1/completions", {"prompt": "Whole:", **LONG})))
            waiting.start()
            events, last_text, ended = [[] for _ in streams], [0.0] * len(streams), [0.0] * len(streams)

            def read(i):
                for event in streams[i]:
                    events[i].append(event)
                    if event != "[DONE]" and "error" not in event:
                        last_text[i] = time.monotonic()
                ended[i] = time.monotonic()

            readers = [threading.Thread(target=read, args=(i,)) for i in range(len(streams))]
            for t in readers:
                t.start()
            for t in readers + [waiting]:
                t.join()
            refused = None
            with contextlib.suppress(OSError):
                refused = server.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
            code = server.wait(20)
            gone = time.monotonic()
            probes.thread.join()
            log = server.log()

        self.assertEqual(code, 70, log)
        self.assertIn("\ntroupe: a rank was lost: ", "\n" + log)
        self.assertNotIn("Sanitizer", log)
        for i, got in enumerate(events):
            self.assertGreater(len(got), 20)
            self.assertEqual(got[-1], "[DONE]")
            self.assertEqual(list(got[-2]), ["error"])
            self.check_error(got[-2]["error"], *words)
            self.assertFalse(any("error" in e for e in got[:-2]))
            self.assertLess(ended[i] - last_text[i], 1.25 * TIMEOUT + 3 * SLOWER)
        self.assertEqual(whole[0].status, 500, whole)
        self.check_error(whole[0].json["error"], *words)
        if refused:
            self.assertIn(refused.status, (500, 503))
            self.check_error(refused.json["error"])
        self.assertLess(gone - max(ended), 10 * SLOWER)
        for path, seen in probes.seen.items():
            self.assertEqual(sorted(seen), seen, path)  # first 200, then 503
            self.assertEqual(set(seen), {200, 503}, path)
            self.check_error(probes.bodies[path, 503].json["error"])

    def test_a_step_that_fails(self):
        self.lose("fail", "failed on purpose")

    def test_memory_that_runs_out(self):
        self.lose("no-memory", "out of memory")

    def test_a_device_that_hangs(self):
        self.lose("hang", f"no progress for {TIMEOUT}000 ms")

    def test_a_thread_that_never_comes_back(self):
        self.lose("freeze", f"no progress for {TIMEOUT}000 ms")

    def test_one_of_two_ranks(self):
        for rank, fault, said in ((0, "fail", "failed on purpose"), (0, "no-memory", "out of memory"), (1, "fail", "failed on purpose"),
                                  (1, "no-memory", "out of memory"), (1, "hang", f"no progress for {TIMEOUT}000 ms"),
                                  (1, "freeze", f"no progress for {TIMEOUT}000 ms")):
            with self.subTest(rank=rank, fault=fault):
                self.lose(fault, f"rank {rank} was lost", said, rank=rank, options=("--tensor-parallel-size", 2))

    def test_before_the_first_token_a_stream_s_failure_is_its_status(self):
        limit = min(TIMEOUT, 10)  # a silence of 15 seconds would have begun the answer with a ping
        for fault in ("fail", "no-memory", "hang"):
            with self.subTest(fault), Server(TINY, "--inject-fault", f"step=1:{fault}", "--step-timeout", limit) as server:
                reply = server.post("/v1/completions", {"prompt": "x", "stream": True, **LONG})
                self.assertEqual(reply.status, 500, reply)
                self.check_error(reply.json["error"])
                self.assertEqual(server.wait(20), 70, server.log())

    def test_signals_while_a_rank_hangs(self):
        with Server(TINY, "--inject-fault", "step=5:freeze", "--step-timeout", TIMEOUT) as server:
            stream = server.stream("/v1/completions", {"prompt": "x", **LONG})
            server.terminate()
            events = list(stream)
            self.check_error(events[-2]["error"])
            self.assertEqual(server.wait(20), 70, server.log())
        with Server(TINY, "--inject-fault", "step=5:freeze", "--step-timeout", 600) as server:
            stream = server.stream("/v1/completions", {"prompt": "x", **LONG})
            for _ in range(2):
                server.terminate()
                time.sleep(0.5)
            self.assertEqual(server.wait(10), 128 + 15, server.log())
            stream.close()

    def test_several_ranks_leave_in_order(self):
        with Server(TINY, "--tensor-parallel-size", 4, "--threads", 4) as server:
            stream = server.stream("/v1/completions", {"prompt": "x", **LONG})
            started = time.monotonic()
            server.terminate()
            events = list(stream)  # the drain lets it end
            self.assertEqual(events[-1], "[DONE]")
            self.assertEqual(server.wait(30), 0, server.log())
            self.assertLess(time.monotonic() - started, 20 * SLOWER)
            self.assertNotIn("left behind", server.log())

    def test_a_slow_rank_is_served_to_the_end(self):
        with Server(TINY, "--inject-fault", "step=3+:slow=50ms", "--step-timeout", TIMEOUT) as server:
            started = time.monotonic()
            reply = server.post("/v1/completions", {"prompt": "x", **LONG, "max_tokens": 20})
            self.assertEqual(reply.json["usage"]["completion_tokens"], 20, reply)
            self.assertGreater(time.monotonic() - started, 0.9)
            self.assertEqual(server.get("/ready").status, 200)
            server.terminate()
            self.assertEqual(server.wait(20), 0, server.log())
            self.assertIn("injected on purpose", server.log())


class Options(ProgramTest):
    def test_they_are_checked_and_printed(self):
        for wrong in ("fail", "step=0:fail", "step=3:explode", "step=3:slow=5", "rank=:step=3:fail"):
            self.fail_with(2, "serve", TINY, "--inject-fault", wrong, names=(wrong, "step=N:hang"))
        self.fail_with(2, "serve", TINY, "--inject-fault", "rank=1:step=3:fail", names="no rank 1")
        self.fail_with(2, "serve", TINY, "--step-timeout", "0", names="--step-timeout")
        printed = self.succeed("serve", TINY, "--print-config", TROUPE_INJECT_FAULT="step=2:fail", TROUPE_STEP_TIMEOUT=7).decode()
        self.assertIn("inject-fault = 'step=2:fail'", printed)
        self.assertIn("step-timeout = 7\n", printed)
        again = self.succeed("serve", "--config", self.file("c.toml", printed), "--print-config").decode()
        self.assertEqual(again, printed)
        self.assertIn("step-timeout = 120\n", self.succeed("serve", TINY, "--print-config").decode())

    def test_other_commands_have_no_faults(self):
        self.assertNotIn("inject-fault", run("generate", "--help").stdout.decode())


if __name__ == "__main__":
    unittest.main()
