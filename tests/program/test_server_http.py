"""HTTP itself: connections, heads and bodies of all kinds, keys, browsers, readers that stand still."""
import http.client
import json
import random
import shutil
import socket
import subprocess
import threading
import time
import unittest

from support import SLOWER, WithServer, read_all, status_of, until

LAST_CHUNK = b"\r\n0\r\n\r\n"


class Connections(WithServer):
    def completion(self):
        return self.good("/v1/completions", {"prompt": "Once", "max_tokens": 4})

    def test_keep_alive_and_pipelining(self):
        one = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        last = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = self.server.raw(one * 3 + last)
        self.assertEqual(answer.count(b"HTTP/1.1 200"), 4)
        self.assertIn(b'"version"', answer)
        body = json.dumps({"prompt": "Once", "max_tokens": 4, "temperature": 0}).encode()
        post = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        answer = self.server.raw(post * 3 + last)
        self.assertEqual(answer.count(b"HTTP/1.1 200"), 4)
        self.assertEqual(answer.count(b"text_completion"), 3)

    def test_a_connection_outlives_errors_and_streams(self):
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=30 * SLOWER)
        self.addCleanup(connection.close)
        json_type = {"Content-Type": "application/json"}
        ports = set()
        for body, status in ((b"{", 400), (b'{"prompt": "x", "max_tokens": 2}', 200), (b'{"prompt": "x", "max_tokens": 2, "stream": true}', 200),
                             (b'{"foo": 1}', 400), (b'{"prompt": "y", "max_tokens": 2}', 200)):
            connection.request("POST", "/v1/completions", body, json_type)
            ports.add(connection.sock.getsockname()[1])
            answer = connection.getresponse()
            self.assertEqual(answer.status, status)
            answer.read()
        self.assertEqual(len(ports), 1, "the connection was opened anew")

    def test_http_1_0(self):
        answer = self.server.raw(b"GET /health HTTP/1.0\r\n\r\n")
        self.assertEqual(status_of(answer), 200)
        body = json.dumps({"prompt": "Once", "max_tokens": 4, "stream": True}).encode()
        answer = self.server.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.assertEqual(status_of(answer), 200)
        self.assertNotIn(b"Transfer-Encoding", answer)
        self.assertTrue(answer.endswith(b"data: [DONE]\n\n"))

    def test_chunked_bodies_and_expect_continue(self):
        body = json.dumps({"prompt": "Once", "max_tokens": 4, "temperature": 0}).encode()
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.assertEqual(status_of(self.server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)), 200)
        with self.server.connect(10) as s:
            s.sendall(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
            first = s.recv(4096)
            self.assertTrue(first.startswith(b"HTTP/1.1 100"), first)
            s.sendall(body)
            self.assertIn(b"HTTP/1.1 200", first[4:] + read_all(s))

    def test_request_ids(self):
        mine = self.server.get("/health", headers={"X-Request-Id": "abc-123"})
        self.assertEqual(mine.headers["X-Request-Id"], "abc-123")
        given = {self.server.get("/health").headers["X-Request-Id"] for _ in range(3)}
        self.assertEqual(len(given), 3)
        reply = self.server.post("/v1/completions", {"prompt": "x", "max_tokens": 1}, headers={"X-Request-Id": "my-own"})
        self.assertEqual(reply.headers["X-Request-Id"], "my-own")
        self.assertNotIn("evil", str(self.server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: a\x01evil\r\n\r\n").split(b"\r\n\r\n")[0]))

    def test_oversized_and_malformed_heads(self):
        self.assertEqual(status_of(self.server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 40000 + b"\r\n\r\n")), 431)
        self.assertIn(status_of(self.server.raw(b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")), (414, 431))
        for head in (b"NONSENSE\r\n\r\n", b"GET /health\r\n\r\n", b"GET /health HTTP/1.1\r\nno colon\r\n\r\n", b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
                     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
            with self.subTest(head=head[:40]):
                answer = self.server.raw(head, timeout=10)
                self.assertIn(status_of(answer), (None, 400, 501, 505), answer[:100])
        self.assertEqual(self.server.get("/health").status, 200)

    def test_smuggling_is_refused(self):
        answer = self.server.raw(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\n\r\n", timeout=5)
        self.assertNotIn(b'"version"', answer)

    def test_oversized_bodies(self):
        answer = self.server.raw(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n{")
        self.assertEqual(status_of(answer), 413)
        endless = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        answer = self.server.raw(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + endless * 12)
        self.assertIn(status_of(answer), (413, None), answer[:100])

    def test_slow_headers_are_cut_off(self):
        def loris(s):
            started = time.monotonic()
            try:
                for _ in range(200):
                    s.sendall(b"a")
                    time.sleep(0.2)
                    if time.monotonic() - started > 25 * SLOWER:
                        break
            except OSError:
                pass

        with self.server.connect(30) as s:
            s.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
            thread = threading.Thread(target=loris, args=(s,), daemon=True)
            started = time.monotonic()
            thread.start()
            answer = read_all(s)
            took = time.monotonic() - started
            self.assertIn(status_of(answer), (408, None))
            self.assertLess(took, 20 * SLOWER)
        thread.join()

    def test_many_idle_connections_do_no_harm(self):
        sockets = [self.server.connect() for _ in range(200)]
        self.assertEqual(self.server.get("/health").status, 200)
        self.completion()
        for s in sockets:
            s.close()

    def test_half_sent_requests_that_vanish(self):
        body = json.dumps({"prompt": "Once", "max_tokens": 4}).encode()
        whole = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        for length in range(1, len(whole), 7):
            with self.server.connect() as s:
                s.sendall(whole[:length])
        self.completion()
        self.assertTrue(self.server.idle())


    def test_damaged_requests_never_take_the_server_down(self):
        body = json.dumps({"prompt": "Once", "max_tokens": 3, "temperature": 0.5, "stop": ["x"], "logit_bias": {"5": 1}, "stream": True}).encode()
        whole = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body)) + body
        source = random.Random(2026)
        for k in range(300):
            damaged = bytearray(whole)
            for _ in range(source.randint(1, 4)):
                at = source.randrange(len(damaged))
                if source.random() < 0.5:
                    damaged[at] = source.randrange(256)
                elif source.random() < 0.5:
                    del damaged[at:at + source.randint(1, 9)]
                else:
                    damaged[at:at] = bytes(source.randrange(256) for _ in range(source.randint(1, 9)))
                if not damaged:
                    break
            with self.server.connect(10) as s:
                try:
                    s.sendall(bytes(damaged))
                    s.shutdown(socket.SHUT_WR)
                    answer = read_all(s)
                except OSError:
                    continue
                self.assertNotIn(status_of(answer), (500, 501), (bytes(damaged), answer[:300]))
        self.completion()
        self.assertTrue(self.server.idle())


class Curl(WithServer):
    def test_a_body_without_a_content_type_header(self):
        if not shutil.which("curl"):
            self.skipTest("curl is not installed")
        for more in ([], ["-H", "Content-Type: application/json"], ["-H", "Content-Type:"]):
            for prompt in ("Once", "Once upon a time " * 100):  # the second asks with Expect: 100-continue
                body = json.dumps({"prompt": prompt[:400], "max_tokens": 3, "ignore_eos": True, "user": prompt})
                done = subprocess.run(["curl", "-sS", "--max-time", "60", self.server.url + "/v1/completions", "-d", body, *more], capture_output=True)
                self.assertEqual(json.loads(done.stdout)["usage"]["completion_tokens"], 3, done)
        done = subprocess.run(["curl", "-sS", "--max-time", "60", self.server.url + "/v1/completions", "-d", "prompt=Once"], capture_output=True)
        self.assertIn("not valid JSON", json.loads(done.stdout)["error"]["message"])


class Browsers(WithServer):
    options = ("--cors-origin", "https://chat.example")

    def test_cors(self):
        preflight = self.server.request("OPTIONS", "/v1/chat/completions", headers={
            "Origin": "https://chat.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"})
        self.assertEqual(preflight.status, 204)
        self.assertEqual(preflight.headers["Access-Control-Allow-Origin"], "https://chat.example")
        self.assertIn("POST", preflight.headers["Access-Control-Allow-Methods"])
        self.assertIn("content-type", preflight.headers["Access-Control-Allow-Headers"].lower())
        self.assertEqual(self.server.get("/v1/models").headers["Access-Control-Allow-Origin"], "https://chat.example")


class SlowReaders(WithServer):
    """Readers that stand still: their streams park, later they are cancelled; nobody else notices."""
    options = ("--stall-seconds", "6", "--stream-buffer", "32", "--max-requests", "64")

    def unread(self, window):
        """A connection that asks for more than any buffer between it and the engine holds, and reads nothing."""
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        s.settimeout(60 * SLOWER)
        s.connect((self.server.host, self.server.port))
        self.addCleanup(s.close)
        body = json.dumps({"prompt": "Once", "max_tokens": 480, "n": 24, "stream": True, "ignore_eos": True}).encode()
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return s

    def rest(self, s, pause=0.0):
        raw = b""
        while not raw.endswith(LAST_CHUNK) and (part := s.recv(16384)):
            raw += part
            time.sleep(pause)
        return raw

    def test_a_stalled_reader_is_cancelled_and_holds_nobody_up(self):
        s = self.unread(4096)
        until(lambda: self.server.metrics()["troupe:num_requests_parked"], "the streams park")
        reply = self.good("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 8})
        self.assertGreater(self.server.metrics()["troupe:num_requests_parked"], 0, "answered only after the stalled streams had gone")
        self.assertEqual(reply["object"], "text_completion")
        self.assertTrue(self.server.idle(), "the stalled streams still hold pages")
        answer = self.rest(s)  # what was on its way, then the reason or the connection's end
        self.assertIn(b"data: ", answer)
        if answer.endswith(LAST_CHUNK):
            self.assertIn(b'data: {"error":{', answer)

    def test_a_slow_reader_gets_everything(self):
        s = self.unread(65536)
        raw = self.rest(s, pause=0.002)
        self.assertEqual(raw.count(b'"finish_reason":"length"'), 24)
        self.assertIn(b"data: [DONE]", raw)
        self.assertTrue(self.server.idle())


class Secured(WithServer):
    options = ("--api-key", "secret-1", "--api-key", "secret-2")

    def test_keys(self):
        body = {"prompt": "x", "max_tokens": 1}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret-1"}, {"Authorization": "Bearer secret-"}):
            self.refuse(401, "/v1/completions", body, headers=headers)
            self.assertEqual(self.server.get("/v1/models", headers=headers).status, 401)
        for key in ("secret-1", "secret-2"):
            self.assertEqual(self.server.post("/v1/completions", body, headers={"Authorization": f"Bearer {key}"}).status, 200)
        for path in ("/health", "/ready"):
            self.assertEqual(self.server.get(path).status, 200)
        self.assertEqual(self.server.get("/metrics").status, 401)


if __name__ == "__main__":
    unittest.main()
