"""The server's own life: start, overload, draining, a second signal."""
import json
import random
import signal
import socket
import threading
import time
import unittest

from support import SLOWER, SMOLLM2, TINY, ProgramTest, Server, need_smollm2, run, until

LONG = {"prompt": "Once upon a time", "temperature": 0, "ignore_eos": True}


class Start(ProgramTest):
    def test_a_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            done = run("serve", TINY, "--port", taken.getsockname()[1])
            said = done.stderr.decode()
            self.assertEqual(done.returncode, 3, said)
            self.assertTrue(said.splitlines()[-1].startswith("troupe: "), said)
            self.assertIn(str(taken.getsockname()[1]), said)
            self.assertEqual(done.stdout, b"")

    def test_an_address_that_is_not_ours(self):
        done = run("serve", TINY, "--port", "0", "--host", "203.0.113.7")
        self.assertEqual(done.returncode, 3, done.stderr)

    def test_stopping_an_idle_server(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with Server(TINY) as server:
                server.process.send_signal(number)
                self.assertEqual(server.wait(), 0, server.log())

    def test_stopping_with_idle_connections(self):
        with Server(TINY) as server:
            idle = [server.connect() for _ in range(5)]
            started = time.monotonic()
            server.terminate()
            self.assertEqual(server.wait(), 0)
            self.assertLess(time.monotonic() - started, 15 * SLOWER)  # a drain may last twice that
            for s in idle:
                s.close()

    def test_ipv6_and_all_interfaces(self):
        with Server(TINY, "--host", "0.0.0.0") as server:
            server.host = "127.0.0.1"
            self.assertEqual(server.get("/health").status, 200)


class Overload(ProgramTest):
    def test_a_full_server_refuses_before_tokenizing(self):
        need_smollm2(self)
        with Server(SMOLLM2, "--max-requests", "2", "--max-model-len", "2048") as server:
            running = [server.stream("/v1/completions", {**LONG, "max_tokens": 1800}) for _ in range(2)]
            iterators = [iter(s) for s in running]
            for i in iterators:
                next(i)
            # This prompt does not fit the context either: only what has not been encoded can be refused as overload.
            body = json.dumps({"prompt": "word " * 1_000_000}).encode()
            refused = server.post("/v1/completions", body)
            self.assertEqual(refused.status, 503, refused)
            self.assertGreaterEqual(int(refused.headers["Retry-After"]), 1)
            self.assertEqual(set(refused.json["error"]), {"message", "type", "param", "code"})
            started = time.monotonic()
            for _ in range(50):
                self.assertEqual(server.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).status, 503)
            self.assertLess(time.monotonic() - started, 30 * SLOWER)
            self.assertEqual(server.get("/health").status, 200)
            self.assertEqual(server.metrics()['vllm:admission_rejections_total'], 51)
            for s in running:
                s.close()
            self.assertTrue(server.idle())
            # What is idle for the scheduler still ends in the actors around it.
            until(lambda: server.post("/v1/completions", {"prompt": "x", "max_tokens": 1}).status == 200, "a permit comes back")

    def test_n_choices_count_as_n_requests(self):
        with Server(TINY, "--max-requests", "3") as server:
            self.assertEqual(server.post("/v1/completions", {"prompt": "x", "n": 3, "max_tokens": 4}).status, 200)
            self.assertEqual(server.post("/v1/completions", {"prompt": "x", "n": 4, "max_tokens": 4}).status, 503)
            # The refused request's first three choices were on their way already: their cancelling takes a moment.
            until(lambda: server.post("/v1/completions", {"prompt": "x", "n": 3, "max_tokens": 4}).status == 200, "all permits come back")

    def test_a_storm_of_clients_that_leave_loses_no_permit(self):
        with Server(TINY, "--max-requests", "8") as server:
            def clients(seed):
                source = random.Random(seed)
                for _ in range(80):
                    body = json.dumps({"prompt": "Once", "n": source.choice([1, 2, 3, 5, 9]), "max_tokens": source.choice([1, 5, 400]),
                                       "stream": source.random() < 0.7, "ignore_eos": True}).encode()
                    with server.connect() as s:
                        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                        leave = source.random()
                        if leave > 0.3:
                            s.recv(200 if leave < 0.6 else 65536)

            threads = [threading.Thread(target=clients, args=(k,)) for k in range(16)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertTrue(server.idle())
            until(lambda: server.post("/v1/completions", {"prompt": "x", "n": 8, "max_tokens": 1}).status == 200, "all permits come back")
            for _ in range(20):
                reply = server.post("/v1/completions", {"prompt": "x", "n": 8, "max_tokens": 20, "ignore_eos": True})
                self.assertEqual((reply.status, reply.json.get("usage", {}).get("completion_tokens")), (200, 160))

    def test_more_requests_than_sequences_and_pages_all_end_well(self):
        with Server(TINY, "--max-num-seqs", "3", "--kv-cache-memory-bytes", "2000000", "--max-requests", "64") as server:
            answers = [None] * 24

            def ask(i):
                answers[i] = server.post("/v1/completions", {"prompt": f"Story number {i}:", "max_tokens": 120, "temperature": 0, "ignore_eos": True})

            threads = [threading.Thread(target=ask, args=(i,)) for i in range(24)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            for i, a in enumerate(answers):
                self.assertEqual(a.status, 200, a)
                self.assertEqual(a.json["usage"]["completion_tokens"], 120)
            alone = server.post("/v1/completions", {"prompt": "Story number 7:", "max_tokens": 120, "temperature": 0, "ignore_eos": True})
            self.assertEqual(answers[7].json["choices"][0]["text"], alone.json["choices"][0]["text"])
            self.assertTrue(server.idle())

    def test_too_many_connections(self):
        with Server(TINY, "--max-connections", "4") as server:
            held = [server.connect() for _ in range(4)]
            for s in held:  # an answer says that the server has taken the connection
                s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                self.assertTrue(s.recv(4096).startswith(b"HTTP/1.1 200"))
            with server.connect(10) as s:
                s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = b""
                try:
                    answer = s.recv(4096)
                except ConnectionResetError:
                    pass
                self.assertIn(answer[:12], (b"", b"HTTP/1.1 503"))
            for s in held:
                s.close()
            until(server.serves, "a connection is free again")


class Drain(ProgramTest):
    def setUp(self):
        super().setUp()
        need_smollm2(self)

    def test_sigterm_lets_running_streams_end(self):
        with Server(SMOLLM2) as server:
            want = server.post("/v1/completions", {**LONG, "max_tokens": 120}).json["choices"][0]["text"]
            stream = server.stream("/v1/completions", {**LONG, "max_tokens": 120})
            keep_alive = server.connect()
            events = iter(stream)
            chunks = [next(events) for _ in range(3)]
            server.terminate()
            until(lambda: not server.serves(), "the drain begins")
            try:
                late = server.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
                self.assertEqual(late.status, 503)
            except OSError:
                pass  # the listener is closed already: just as good
            chunks += list(events)
            self.assertEqual(chunks[-1], "[DONE]")
            self.assertEqual(chunks[-2]["choices"][0]["finish_reason"], "length")
            self.assertEqual("".join(c["choices"][0]["text"] for c in chunks[:-1]), want)
            self.assertEqual(server.wait(), 0, server.log())
            keep_alive.close()

    def test_a_whole_answer_ends_too(self):
        with Server(SMOLLM2) as server:
            got = []
            thread = threading.Thread(target=lambda: got.append(server.post("/v1/completions", {**LONG, "max_tokens": 80})))
            thread.start()
            until(lambda: got or server.metrics()["vllm:num_requests_running"], "the answer begins")
            server.terminate()
            thread.join()
            self.assertEqual(got[0].status, 200, got[0])
            self.assertEqual(got[0].json["usage"]["completion_tokens"], 80)
            self.assertEqual(server.wait(), 0, server.log())

    def test_the_drain_has_an_end(self):
        with Server(SMOLLM2, "--drain-seconds", "1") as server:
            stream = server.stream("/v1/completions", {**LONG, "max_tokens": 4000})
            events = iter(stream)
            next(events)
            started = time.monotonic()
            server.terminate()
            chunks = list(events)
            self.assertEqual(server.wait(), 0, server.log())
            self.assertLess(time.monotonic() - started, 20 * SLOWER)
            self.assertTrue(any("error" in c for c in chunks if c != "[DONE]"), chunks[-3:])

    def test_a_second_signal_ends_at_once(self):
        with Server(SMOLLM2) as server:
            stream = server.stream("/v1/completions", {**LONG, "max_tokens": 4000})
            next(iter(stream))
            server.terminate()
            until(lambda: not server.serves(), "the drain begins")
            self.assertIsNone(server.process.poll(), "it must drain first")
            started = time.monotonic()
            server.terminate()
            self.assertEqual(server.wait(), 128 + signal.SIGTERM)
            self.assertLess(time.monotonic() - started, 15 * SLOWER)  # a drain may last twice that
            stream.close()


if __name__ == "__main__":
    unittest.main()
