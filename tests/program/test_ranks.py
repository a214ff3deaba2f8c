"""Ranks as processes: children of the engine, ranks that come to a rendezvous, mpirun, other hosts; and what is seen when one is lost."""
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import unittest
import uuid

from support import PROGRAM, SLOWER, SMOLLM2, TINY, TINY_SPM, ProgramTest, Server, environment, need_smollm2, until

TIMEOUT = round(2 * SLOWER)  # seconds; what the watchdog is told
SECRET = "0123456789abcdef-common"
LONG = {"max_tokens": 480, "temperature": 0, "ignore_eos": True}
PROMPTS = ["Story 1:", "The sea", "x", "A longer prompt, which takes several pages of the cache to hold, and so on and on"]
PROCESSES = ("--tensor-parallel-size", 2, "--rank-isolation", "process")


def children(pid):
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Rank:
    """`troupe rank --join` in the background."""

    def __init__(self, at, *options, secret=SECRET, before=()):
        self._log = tempfile.NamedTemporaryFile(prefix="troupe-rank-", suffix=".log", delete=False)
        self.process = subprocess.Popen([*before, PROGRAM, "rank", "--join", at, *map(str, options)], stderr=self._log,
                                        env=environment(TROUPE_RENDEZVOUS_SECRET=secret))

    def wait(self, timeout=30):
        return self.process.wait(timeout * SLOWER)

    def log(self):
        return pathlib.Path(self._log.name).read_text(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()
        os.unlink(self._log.name)


class Starting:
    """`troupe serve` in the background, before anybody knows whether it comes to listen. `server()` waits for that."""

    def __init__(self, *arguments, **options):
        self.result = []
        self.thread = threading.Thread(target=self.start, args=arguments, kwargs=options)
        self.thread.start()

    def start(self, *arguments, **options):
        try:
            self.result.append(Server(*arguments, **options))
        except AssertionError as e:
            self.result.append(e)

    def server(self):
        self.thread.join()
        if isinstance(self.result[0], AssertionError):
            raise self.result[0]
        return self.result[0]

    def refused(self):
        """What the server said instead of listening."""
        self.thread.join()
        if isinstance(self.result[0], Server):
            self.result[0].close()
            raise AssertionError("the server listens")
        return str(self.result[0])


class RankTest(ProgramTest):
    def texts(self, server, **more):
        out = []
        for i, prompt in enumerate(PROMPTS):
            reply = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 40, "temperature": 1, "seed": i, "ignore_eos": True, **more})
            self.assertEqual(reply.status, 200, reply)
            out.append(reply.json["choices"][0]["text"])
        return out

    def expected(self):
        if not hasattr(RankTest, "alone"):
            with Server(TINY) as server:
                RankTest.alone = self.texts(server)
        return RankTest.alone

    def end(self, server, code=0):
        """SIGTERM, and what the server leaves behind: nothing."""
        ranks = children(server.pid)
        server.terminate()
        self.assertEqual(server.wait(), code, server.log())
        until(lambda: not any(map(alive, ranks)), "the ranks end with rank 0", 5)

    def lose(self, server, harm, *words, limit):
        """Streams run, `harm` is done: each ends with an error event of code rank_failed, /ready turns 503, exit code 70."""
        streams = [server.stream("/v1/completions", {"prompt": f"Story {i}:", **LONG}) for i in range(4)]
        events, begun = [[] for _ in streams], [threading.Event() for _ in streams]

        def read(i):
            for event in streams[i]:
                events[i].append(event)
                if len(events[i]) == 3:
                    begun[i].set()

        readers = [threading.Thread(target=read, args=(i,)) for i in range(len(streams))]
        for t in readers:
            t.start()
        for b in begun:
            self.assertTrue(b.wait(60 * SLOWER))
        harm()
        before = time.monotonic()
        for t in readers:
            t.join()
        took = time.monotonic() - before
        with contextlib.suppress(OSError):
            reply = server.get("/ready")
            self.assertEqual(reply.status, 503, reply)
        self.assertEqual(server.wait(20), 70, server.log())
        for got in events:
            self.assertEqual(got[-1], "[DONE]")
            self.assertEqual(list(got[-2]), ["error"], got[-3:])
            self.assertEqual(got[-2]["error"]["code"], "rank_failed")
            for word in words:
                self.assertIn(word, got[-2]["error"]["message"])
        self.assertLess(took, limit * SLOWER)


class Children(RankTest):
    def test_the_same_text_as_one_rank(self):
        with Server(TINY, *PROCESSES) as server:
            self.assertEqual(len(children(server.pid)), 1)
            self.assertEqual(self.texts(server), self.expected())
            self.end(server)

    def test_the_same_bits_with_three_ranks_of_a_model_of_three_heads(self):
        need_smollm2(self)
        tokens = self.file("tokens", "1 1000 2000 3000 4000 17 4")
        self.succeed("logits", SMOLLM2, "--tokens", tokens, "--out", self.folder / "one.npy")
        self.succeed("logits", SMOLLM2, "--tokens", tokens, "--out", self.folder / "three.npy", "--tensor-parallel-size", 3,
                     "--rank-isolation", "process")
        self.assertEqual((self.folder / "one.npy").read_bytes(), (self.folder / "three.npy").read_bytes())

    def test_a_rank_is_killed_while_streams_run(self):
        with Server(TINY, *PROCESSES, "--step-timeout", TIMEOUT) as server:
            rank, = children(server.pid)
            self.lose(server, lambda: os.kill(rank, signal.SIGKILL), f"rank 1 was lost: process {rank}: was killed by signal 9", limit=TIMEOUT)
            self.assertFalse(alive(rank))

    def test_a_rank_stands_still_while_streams_run(self):
        with Server(TINY, *PROCESSES, "--step-timeout", TIMEOUT) as server:
            rank, = children(server.pid)
            self.lose(server, lambda: os.kill(rank, signal.SIGSTOP), "rank 1", limit=1.25 * TIMEOUT + 3)
            until(lambda: not alive(rank), "the rank is gone")

    def test_a_rank_is_killed_while_nothing_runs(self):
        with Server(TINY, *PROCESSES) as server:
            self.assertEqual(server.get("/ready").status, 200)
            os.kill(children(server.pid)[0], signal.SIGKILL)
            self.assertEqual(server.wait(20), 70, server.log())
            self.assertIn("killed by signal 9", server.log())

    def test_rank_0_is_killed(self):
        for streaming in (False, True):
            with Server(TINY, *PROCESSES) as server:
                ranks = children(server.pid)
                self.assertEqual(len(ranks), 1)
                if streaming:
                    stream = server.stream("/v1/completions", {"prompt": "x", **LONG})
                    next(iter(stream))
                server.process.kill()
                server.wait()
                if streaming:
                    stream.close()
                until(lambda: not any(map(alive, ranks)), "the ranks end with rank 0", 2)

    def test_a_terminal_s_interrupt_is_rank_0_s_business(self):
        with Server(TINY, *PROCESSES) as server:
            rank, = children(server.pid)
            stream = server.stream("/v1/completions", {"prompt": "x", **LONG})
            for pid in (rank, server.pid):
                os.kill(pid, signal.SIGINT)
            events = list(stream)
            self.assertFalse([e for e in events if "error" in e])
            self.assertEqual(server.wait(), 0, server.log())
            self.assertFalse(alive(rank))

    def test_what_cannot_be_is_said(self):
        self.fail_with(2, "generate", TINY, "--prompt", "x", *PROCESSES, "--reference", names="tensor-parallel-size 2")
        self.fail_with(2, "serve", TINY, "--rank-isolation", "fork", names="--rank-isolation")


class Rendezvous(RankTest):
    def serve(self, at, *options, size=2, model=TINY, secret=SECRET, **more):
        return Starting(model, "--tensor-parallel-size", size, "--rendezvous", at, *options, TROUPE_RENDEZVOUS_SECRET=secret, **more)

    def address(self):
        return f"127.0.0.1:{free_port()}"

    def test_ranks_started_by_hand(self):
        at = self.address()
        # One comes before rank 0 listens, neither says which it is.
        with Rank(at) as first, Rank(at, "--threads", 1, TINY) as second, self.serve(at, size=3).server() as server:
            self.assertEqual(self.texts(server), self.expected())
            self.end(server)
            for rank in (first, second):
                self.assertEqual(rank.wait(), 0, rank.log())

    def test_a_rank_is_killed(self):
        at = self.address()
        with Rank(at, "--rank", 1) as rank, self.serve(at, "--step-timeout", TIMEOUT).server() as server:
            self.lose(server, rank.process.kill, "rank 1", limit=TIMEOUT)

    def test_rank_0_is_killed(self):
        at = self.address()
        with Rank(at) as rank, self.serve(at).server() as server:
            stream = server.stream("/v1/completions", {"prompt": "x", **LONG})
            next(iter(stream))
            server.process.kill()
            self.assertEqual(rank.wait(5), 70, rank.log())
            self.assertIn("rank 0", rank.log())
            stream.close()

    def test_who_does_not_know_the_secret_is_turned_away(self):
        at = self.address()
        starting = self.serve(at)
        with Rank(at, secret="another secret of length") as wrong:
            self.assertEqual(wrong.wait(), 70)
            self.assertIn("does not know the secret", wrong.log())
        with Rank(at), starting.server() as server:  # rank 0 has gone on waiting
            self.assertIn("does not know the secret", server.log())
            self.assertEqual(self.texts(server), self.expected())

    def test_the_secret_may_lie_in_a_file(self):
        at, file = self.address(), str(self.file("secret", SECRET + "\n"))
        with Rank(at, secret=file), self.serve(at, secret=file).server() as server:
            self.assertEqual(server.get("/ready").status, 200)

    def test_there_is_no_rendezvous_without_a_secret(self):
        for secret in ("", "short", "/no/such/file"):
            self.fail_with(2, "serve", TINY, "--rendezvous", "127.0.0.1:1", "--tensor-parallel-size", 2,
                           names="TROUPE_RENDEZVOUS_SECRET", TROUPE_RENDEZVOUS_SECRET=secret)
            self.fail_with(2, "rank", "--join", "127.0.0.1:1", names="TROUPE_RENDEZVOUS_SECRET", TROUPE_RENDEZVOUS_SECRET=secret)
        self.fail_with(2, "rank", names="--join")
        self.fail_with(2, "rank", "--join", "nowhere", names="HOST:PORT", TROUPE_RENDEZVOUS_SECRET=SECRET)
        self.fail_with(2, "serve", TINY, "--rendezvous", "nowhere", "--tensor-parallel-size", 2, names="HOST:PORT", TROUPE_RENDEZVOUS_SECRET=SECRET)

    def test_another_model_is_refused_on_both_sides(self):
        at = self.address()
        starting = self.serve(at)
        with Rank(at, TINY_SPM) as rank:
            self.assertEqual(rank.wait(), 2)
            self.assertIn("is not the model that rank 0 serves", rank.log())
        said = starting.refused()
        self.assertIn("rank 1 (127.0.0.1:", said)
        self.assertIn("is not the model that rank 0 serves", said)

    def test_another_version_is_refused_on_both_sides(self):
        at = self.address()
        starting = self.serve(at, "--rank-start-timeout", 3)
        until(lambda: self.speak(at, struct.pack("<IIII", 8, 2, 0x4B4C5054, 99)) is not None, "rank 0 listens")
        said = starting.refused()
        self.assertIn("protocol 99", self.heard)
        self.assertIn("rank 1 did not come", said)
        self.assertIn("protocol 99", said)
        with socket.create_server(("127.0.0.1", 0)) as later, Rank(f"127.0.0.1:{later.getsockname()[1]}") as rank:
            connection, _ = later.accept()
            with connection:
                connection.sendall(struct.pack("<IIII", 8, 1, 0x4B4C5054, 98))
                self.assertEqual(rank.wait(), 70)
            self.assertIn("protocol 98", rank.log())

    def speak(self, at, words):
        """What rank 0 answers to words of a stranger, after its challenge."""
        host, _, port = at.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), 10) as s:
                s.sendall(words)
                self.heard = b"".join(iter(lambda: s.recv(4096), b"")).decode(errors="replace")
                return self.heard
        except OSError:
            return None

    def test_strangers_do_not_matter(self):
        at = self.address()
        starting = self.serve(at)
        until(lambda: self.speak(at, b"GET / HTTP/1.1\r\n\r\n") is not None, "rank 0 listens")
        self.speak(at, os.urandom(5000))
        with Rank(at, "--rank", 2) as rank:
            self.assertEqual(rank.wait(), 70)
            self.assertIn("rank 2 is not among the ranks", rank.log())
        with Rank(at), starting.server() as server:
            self.assertEqual(self.texts(server), self.expected())

    def test_a_rank_that_does_not_come(self):
        said = self.serve(self.address(), "--rank-start-timeout", 1, size=3).refused()
        self.assertIn("rank 1, 2 did not come", said)
        with Rank(self.address(), "--rank-start-timeout", 1) as rank:
            self.assertEqual(rank.wait(), 3)
            self.assertIn("cannot be reached", rank.log())


class Launcher(RankTest):
    """mpirun only starts the processes: the program itself knows nothing of MPI."""

    def setUp(self):
        super().setUp()
        if not shutil.which("mpirun"):
            self.skipTest("there is no mpirun (Debian's openmpi-bin)")
        self.at = f"127.0.0.1:{free_port()}"

    def mpirun(self, n, *words, **options):
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(n), PROGRAM, *map(str, words), "--rendezvous", self.at]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(TROUPE_RENDEZVOUS_SECRET=SECRET), **options)

    def test_one_command_for_all_ranks(self):
        alone = self.succeed("generate", TINY, "--prompt", "The sea", "-n", 40, "--temperature", 0)
        for n in (2, 3):
            done = self.mpirun(n, "generate", TINY, "--prompt", "The sea", "-n", 40, "--temperature", 0)
            out, said = done.communicate(timeout=60 * SLOWER)
            self.assertEqual(done.returncode, 0, said)
            self.assertEqual(out, alone)

    def test_sizes_that_differ(self):
        done = self.mpirun(2, "generate", TINY, "--prompt", "x", "--tensor-parallel-size", 3)
        _, said = done.communicate(timeout=60 * SLOWER)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"--tensor-parallel-size 3: the launcher has started 2 processes", said)

    def test_a_killed_rank_ends_the_job(self):
        job = self.mpirun(2, "serve", TINY, "--port", 0, "--step-timeout", TIMEOUT)
        self.assertTrue(job.stdout.readline().startswith(b"listening on"))
        ranks = [p for p in children(job.pid)]
        self.assertEqual(len(ranks), 2)
        os.kill(max(ranks), signal.SIGKILL)
        _, said = job.communicate(timeout=60 * SLOWER)
        self.assertNotEqual(job.returncode, 0, said)
        until(lambda: not any(map(alive, ranks)), "all ranks are gone")


class TwoHosts(RankTest):
    """Two network namespaces with a cable between them: hosts as far as sockets can tell."""

    def setUp(self):
        super().setUp()
        name = "troupe-" + uuid.uuid4().hex[:6]
        self.spaces = [name + "a", name + "b"]
        ends = [name[-6:] + "a", name[-6:] + "b"]
        try:
            for space in self.spaces:
                self.ip("netns", "add", space)
                self.addCleanup(subprocess.run, ["ip", "netns", "del", space], stderr=subprocess.DEVNULL)
            self.ip("link", "add", ends[0], "netns", self.spaces[0], "type", "veth", "peer", "name", ends[1], "netns", self.spaces[1])
            for i in range(2):
                self.ip("-n", self.spaces[i], "addr", "add", f"10.77.0.{i + 1}/24", "dev", ends[i])
                self.ip("-n", self.spaces[i], "link", "set", ends[i], "up")
                self.ip("-n", self.spaces[i], "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as e:
            said = getattr(e, "stderr", b"") or str(e).encode()
            self.skipTest(f"no network namespaces here: {said.decode().strip()}")

    def ip(self, *words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def inside(self, i):
        return ["ip", "netns", "exec", self.spaces[i]]

    def start(self, *words):
        at = "10.77.0.1:7077"
        command = [*self.inside(0), PROGRAM, *map(str, words), "--tensor-parallel-size", "2", "--rendezvous", at]
        rank0 = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(TROUPE_RENDEZVOUS_SECRET=SECRET))
        self.addCleanup(rank0.kill)
        return rank0, Rank(at, before=self.inside(1))

    def test_the_same_text_as_one_rank(self):
        alone = self.succeed("generate", TINY, "--prompt", "The sea", "-n", 40, "--temperature", 0)
        rank0, rank = self.start("generate", TINY, "--prompt", "The sea", "-n", 40, "--temperature", 0)
        with rank:
            out, said = rank0.communicate(timeout=60 * SLOWER)
            self.assertEqual(rank0.returncode, 0, said)
            self.assertEqual(out, alone)
            self.assertEqual(rank.wait(), 0, rank.log())

    def test_the_other_host_is_cut_off(self):
        """No word comes any more, not even that the connection has closed: the watchdog ends the job, keep-alive the rank."""
        rank0, rank = self.start("serve", TINY, "--port", 0, "--step-timeout", TIMEOUT)
        with rank:
            line = rank0.stdout.readline().decode()
            self.assertTrue(line.startswith("listening on"), line or rank0.stderr.read())
            self.ip("-n", self.spaces[1], "link", "set", self.spaces[1][-7:], "down")
            ask = "import urllib.request; urllib.request.urlopen('%s/v1/completions', b'{\"prompt\": \"x\", \"max_tokens\": 4}')" % line.split()[-1]
            subprocess.run([*self.inside(0), "python3", "-c", ask], capture_output=True, timeout=60 * SLOWER)
            _, said = rank0.communicate(timeout=60 * SLOWER)
            self.assertEqual(rank0.returncode, 70, said)
            self.assertIn(b"rank 1", said)
            self.assertEqual(rank.wait(60), 70, rank.log())


if __name__ == "__main__":
    unittest.main()
