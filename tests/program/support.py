"""What the black-box tests share: where things lie, running the program, a server in the background, HTTP over plain sockets.

Environment, set by ctest: TROUPE (the program), TROUPE_TEST_DATA (tests/data), TROUPE_MODELS (the model folder).
"""
import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("TROUPE", str(ROOT / "build/release/troupe"))
DATA = pathlib.Path(os.environ.get("TROUPE_TEST_DATA", ROOT / "tests/data"))
MODELS = pathlib.Path(os.environ.get("TROUPE_MODELS") or
                      pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "troupe/models")
SMOLLM2 = MODELS / "smollm2.gguf"
TINY = DATA / "model/llama-bias/model-bf16.gguf"        # byte-level BPE, chat template, 448 tokens, context 512
TINY_SPM = DATA / "model/llama/model-bf16.gguf"         # sentencepiece BPE
TINY_QUANT = DATA / "model/llama-256/model-Q4_K_M.gguf"
VOCAB, CONTEXT = 448, 512                               # of every tiny model
SLOWER = float(os.environ.get("TROUPE_TEST_SLOWER", "1"))  # stretches every time limit: sanitizers, loaded machines


def environment(**more):
    """The tests' environment without what would configure the program, and with `more`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TROUPE_")}
    return {**kept, "TROUPE_MODELS": str(MODELS), **{k: str(v) for k, v in more.items()}}


def run(*arguments, stdin=b"", timeout=120, program=None, **more_environment):
    """Runs the program to its end; stdout and stderr as bytes."""
    if isinstance(stdin, str):
        stdin = stdin.encode()
    return subprocess.run([program or PROGRAM, *map(str, arguments)], input=stdin, capture_output=True,
                          timeout=timeout * SLOWER, env=environment(**more_environment))


def ids_of(text):
    return [int(word) for word in text.split()]


def until(condition, what, timeout=60):
    """Waits for what must come, however long a loaded machine takes over it."""
    deadline = time.monotonic() + timeout * SLOWER
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout * SLOWER:.0f} s")
        time.sleep(0.02)


class ProgramTest(unittest.TestCase):
    """Assertions about finished processes, and a folder that goes away with the test."""
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        if not os.access(PROGRAM, os.X_OK):
            raise AssertionError(f"{PROGRAM} is not there: build it first (ninja troupe), or set TROUPE")

    def setUp(self):
        self._folder = tempfile.TemporaryDirectory(prefix="troupe-test-")
        self.addCleanup(self._folder.cleanup)
        self.folder = pathlib.Path(self._folder.name)

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def succeed(self, *arguments, **options):
        done = run(*arguments, **options)
        self.assertEqual(done.returncode, 0, f"{arguments}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def fail_with(self, code, *arguments, names=(), **options):
        """The promise about errors: the exit code, nothing on stdout, one line on stderr that begins with "troupe: "."""
        done = run(*arguments, **options)
        said = done.stderr.decode(errors="replace")
        where = f"{arguments} -> {done.returncode}: {said!r}"
        self.assertEqual(done.returncode, code, where)
        self.assertEqual(done.stdout, b"", where)
        self.assertTrue(said.startswith("troupe: "), where)
        self.assertEqual(said.count("\n"), 1, where)
        self.assertTrue(said.endswith("\n"), where)
        for word in [names] if isinstance(names, (str, int)) else names:
            self.assertIn(str(word), said)
        return said


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.headers} {self.body[:2000]!r}"


class Server:
    """`troupe serve MODEL --port 0` until `close` or the end of a with block."""

    def __init__(self, model, *options, wait=60, **more_environment):
        self._log = tempfile.NamedTemporaryFile(prefix="troupe-serve-", suffix=".log", delete=False)
        self.process = subprocess.Popen([PROGRAM, "serve", str(model), "--port", "0", *map(str, options)],
                                        stdout=subprocess.PIPE, stderr=self._log, env=environment(**more_environment))
        line = self.process.stdout.readline().decode().strip()
        prefix = "listening on http://"
        if not line.startswith(prefix):
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server said {line!r} instead of its address, then: {self.log()}")
        self.url = line[len("listening on "):]
        self.host, _, port = line[len(prefix):].rpartition(":")
        self.port = int(port)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def log(self):
        return pathlib.Path(self._log.name).read_text(errors="replace")

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout=30):
        return self.process.wait(timeout * SLOWER)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._log.close()
        said = self.log()
        os.unlink(self._log.name)
        if "Sanitizer" in said:
            raise AssertionError(f"the server's log holds a sanitizer's report: {said[-8000:]}")

    # ---- requests ----

    def connect(self, timeout=60):
        return socket.create_connection((self.host, self.port), timeout * SLOWER)

    def request(self, method, path, body=None, headers=None, timeout=60):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout * SLOWER)
        try:
            headers = dict(headers or {})
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
            if body is not None:
                headers.setdefault("Content-Type", "application/json")
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body, **options):
        return self.request("POST", path, body, **options)

    def stream(self, path, body, timeout=60):
        return Stream(self, path, {**body, "stream": True}, timeout)

    def raw(self, data, timeout=30):
        """Sends bytes, shuts nothing, reads until the server closes or `timeout` passes."""
        with self.connect(timeout) as s:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                s.sendall(data)
            return read_all(s)

    def metrics(self):
        """Sum of the samples by name, and by name{labels}."""
        out = {}
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith("#") or not line:
                continue
            name, value = line.rsplit(" ", 1)
            out[name] = float(value)
            short = name.split("{", 1)[0]
            if short != name:
                out[short] = out.get(short, 0.0) + float(value)
        return out

    def idle(self, timeout=30):
        """Waits until nothing runs and every page is free; returns whether that came."""
        deadline = time.monotonic() + timeout * SLOWER
        while True:
            m = self.metrics()
            if not (m["vllm:num_requests_running"] or m["vllm:num_requests_waiting"] or m["vllm:kv_cache_usage_perc"]):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)

    def serves(self):
        """Whether new requests are taken: not while draining, nor afterwards."""
        try:
            return self.get("/ready").status == 200
        except OSError:
            return False

    def rss_bytes(self):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


class Stream:
    """Server-sent events of one POST, read one by one."""

    def __init__(self, server, path, body, timeout):
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=timeout * SLOWER)
        self.connection.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        self.answer = self.connection.getresponse()
        self.status, self.headers = self.answer.status, self.answer.headers

    def __iter__(self):
        """The data of each event: decoded JSON, at last the string "[DONE]"."""
        while True:
            line = self.answer.readline()
            if not line:
                self.connection.close()
                return
            line = line.rstrip(b"\n")
            if not line or line.startswith(b":"):
                continue
            if not line.startswith(b"data: "):
                raise AssertionError(f"not an event: {line!r}")
            data = line[6:].decode()
            yield data if data == "[DONE]" else json.loads(data)

    def close(self):
        """Drops the connection without reading on."""
        sock = self.connection.sock or getattr(getattr(self.answer.fp, "raw", None), "_sock", None)
        self.answer.close()
        if sock:
            with contextlib.suppress(OSError):
                sock.close()
        self.connection.close()


def read_all(sock):
    data = b""
    try:
        while part := sock.recv(65536):
            data += part
    except (TimeoutError, ConnectionResetError):
        pass
    return data


def status_of(raw):
    """The status codes of the responses in raw bytes, as far as their heads begin with a status line of HTTP/1.1."""
    first = raw.split(b"\r\n", 1)[0].split()
    return int(first[1]) if len(first) > 1 else None


class WithServer(ProgramTest):
    model = TINY
    options = ()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = Server(cls.model, *cls.options)

    @classmethod
    def tearDownClass(cls):
        """Whatever the tests did to it, the server ends cleanly; under a sanitizer that includes what it says about leaks."""
        cls.server.terminate()
        try:
            code, said = cls.server.wait(30), cls.server.log()
        finally:
            cls.server.close()
        if code:
            raise AssertionError(f"the server ended with {code}: {said[-4000:]}")

    def refuse(self, status, path, body, param=None, names=(), headers=None):
        """The promise about errors: status, and OpenAI's shape with the field's name."""
        reply = self.server.post(path, body, headers=headers)
        self.assertEqual(reply.status, status, reply)
        self.check_error(reply)
        if param is not None:
            self.assertEqual(reply.json["error"]["param"], param)
        for word in [names] if isinstance(names, (str, int)) else names:
            self.assertIn(str(word), reply.json["error"]["message"])
        return reply

    def check_error(self, reply):
        error = reply.json["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertIsInstance(error["message"], str)
        self.assertTrue(error["message"])
        self.assertIsInstance(error["type"], str)
        self.assertEqual(reply.headers["Content-Type"].split(";")[0], "application/json")

    def good(self, path, body):
        reply = self.server.post(path, body)
        self.assertEqual(reply.status, 200, reply)
        return reply.json


def need_smollm2(test):
    if not SMOLLM2.exists():
        raise AssertionError(f"{SMOLLM2} is missing: tools/check fetches it, or set TROUPE_MODELS")


if __name__ == "__main__":
    sys.exit("this file holds no tests")
