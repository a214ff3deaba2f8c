"""Many clients at once, some of which leave: no error, nothing lost, every page free afterwards, memory flat."""
import asyncio
import json
import os
import subprocess
import unittest

from support import ROOT, SLOWER, SMOLLM2, ProgramTest, Server, environment, need_smollm2

CLIENTS, OPENAI_CLIENTS, ROUNDS = 64, 8, 10
GROWTH = 8 << 20  # bytes that the server may be larger after the last rounds than after the third

QUESTIONS = ["What is the capital of France?", "Name three colours.", "Count from one to five.", "Write one sentence about the sea.",
             "What is two plus two?", "Who wrote Hamlet?", "Say hello in Spanish.", "What do bees make?"]


def cases(server):
    """Prompts of several lengths with the greedy answer of a run without company."""
    out = []
    for i, question in enumerate(QUESTIONS):
        messages = [{"role": "user", "content": question}]
        if i % 2:  # a long system message, shared by half of the prompts
            messages.insert(0, {"role": "system", "content": "You are a patient teacher. " * 12})
        body = {"messages": messages, "max_tokens": 8 + 3 * i, "temperature": 0}
        reply = server.post("/v1/chat/completions", body)
        assert reply.status == 200, reply
        out.append({"messages": messages, "max_tokens": body["max_tokens"], "text": reply.json["choices"][0]["message"]["content"]})
    return out


def touch_every_page(server):
    """Memory of the KV cache becomes resident with its first use; afterwards a larger process means a leak."""
    for word in ("one", "two", "three", "four"):
        reply = server.post("/v1/completions", {"prompt": f"{word} and " * 500, "max_tokens": 1})
        assert reply.status == 200, reply


async def read_head(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(None, 2)[1]), head


async def events(reader):
    """Data of server-sent events out of a chunked body; raises when the body ends without its last chunk."""
    pending = b""
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        part = await reader.readexactly(size + 2)
        if size == 0:
            return
        pending += part[:-2]
        while b"\n\n" in pending:
            event, pending = pending.split(b"\n\n", 1)
            if event.startswith(b"data: "):
                yield event[6:]


async def one_stream(server, case, leave_after):
    """The text of one streamed chat; None if the client left as it was told to, after that many events."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        body = json.dumps({"messages": case["messages"], "max_tokens": case["max_tokens"], "temperature": 0, "stream": True}).encode()
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        if leave_after == 0:
            await writer.drain()
            await asyncio.sleep(0.05)
            return None
        status, head = await read_head(reader)
        if status != 200:
            raise AssertionError(head)
        text, seen, done = "", 0, False
        async for data in events(reader):
            seen += 1
            if leave_after is not None and seen >= leave_after:
                return None
            if data == b"[DONE]":
                done = True
                continue
            text += json.loads(data)["choices"][0]["delta"].get("content", "")
        if not done:
            raise AssertionError("the stream ended without [DONE]")
        return text
    finally:
        # Leaving is abrupt: a reset, as from a killed browser tab.
        writer.transport.abort() if leave_after is not None else writer.close()


async def one_round(server, known, turn):
    async def client(i):
        case = known[(i * 5 + turn) % len(known)]
        leave_after = [0, 1, 3, 7][i // 4 % 4] if i % 4 == turn % 4 else None
        text = await one_stream(server, case, leave_after)
        if leave_after is None and text != case["text"]:
            raise AssertionError(f"round {turn} client {i}: got {text!r} instead of {case['text']!r}")

    results = await asyncio.gather(*(client(i) for i in range(CLIENTS)), return_exceptions=True)
    return [f"{type(r).__name__}: {r}" for r in results if r is not None]


class Load(ProgramTest):
    def openai_python(self):
        """The interpreter with the openai package; only a caller that names none, and has no build/venv, goes without."""
        named = os.environ.get("TROUPE_TEST_PYTHON")
        if named:
            return named
        found = ROOT / "build/venv/bin/python"
        return str(found) if found.exists() else None

    def test_streams_under_load(self):
        need_smollm2(self)
        python = self.openai_python()
        # Fewer pages than the running sequences come to want, so that prompts wait and cached prefixes are evicted.
        with Server(SMOLLM2, "--max-requests", "256", "--max-num-seqs", "32", "--max-model-len", "1024", "--kv-cache-memory-bytes", 60_000_000) as server:
            known = cases(server)
            self.assertEqual(known, cases(server))
            touch_every_page(server)
            sizes = []
            for turn in range(ROUNDS):
                real = None
                if python:
                    path = self.file("cases.json", json.dumps(known))
                    real = subprocess.Popen([python, ROOT / "tests/program/openai_clients.py", server.url, "smollm2", str(OPENAI_CLIENTS), "1", path],
                                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
                errors = asyncio.run(asyncio.wait_for(one_round(server, known, turn), 600 * SLOWER))
                self.assertEqual(errors, [], f"round {turn}")
                if real:
                    out, said = real.communicate(timeout=300 * SLOWER)
                    self.assertEqual(real.returncode, 0, said.decode())
                    report = json.loads(out)
                    self.assertEqual(report["errors"], [], f"round {turn}")
                    self.assertEqual(report["finished"] + report["left"], OPENAI_CLIENTS)
                self.assertTrue(server.idle(20), f"round {turn}: pages are still held: {server.metrics()['vllm:kv_cache_usage_perc']}")
                sizes.append(server.rss_bytes())
            growth = min(sizes[-3:]) - sizes[2]
            self.assertLess(growth, GROWTH, f"resident memory grows: {[s >> 10 for s in sizes]} KiB")
            metrics = server.metrics()
            self.assertEqual(metrics["vllm:kv_cache_usage_perc"], 0)
            self.assertEqual(metrics["vllm:admission_rejections_total"], 0)
            self.assertGreaterEqual(metrics['vllm:request_success_total'], ROUNDS * CLIENTS)
            server.terminate()
            self.assertEqual(server.wait(20), 0, server.log())
        if not python:
            self.skipTest("SKIP: the clients of the openai package did not run, because neither TROUPE_TEST_PYTHON nor build/venv names a Python "
                          "that has it (tools/check makes one); everything else passed")


if __name__ == "__main__":
    unittest.main()
