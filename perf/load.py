#!/usr/bin/env python3
"""Streaming load for any server with OpenAI's /v1/completions: tokens per second, time to first token, gaps between events.

    perf/load.py http://127.0.0.1:8080 --concurrency 32 --requests 128 --prompt-words 64 --output 128 [--json]

A fixed number of clients, each sends its next request when the last has ended. Prompts are words of a fixed random order, so
that servers get the same ones and no two share a beginning (--shared-words gives all the same one). Events are only counted
and stamped as they come, and read after the end: the client takes little from the machine that it measures.
"""
import argparse
import asyncio
import json
import random
import sys
import time
import urllib.parse

from measure import percentile

WORDS = ("time year people way day man thing woman life child world school state family student group country problem hand part place case week "
         "company system program question work government number night point home water room mother area money story fact month lot right study "
         "book eye job word business issue side kind head house service friend father power hour game line end member law car city community name "
         "president team minute idea kid body information back parent face others level office door health person art war history party result").split()


def make_prompts(count, words, shared_words, seed):
    random_source = random.Random(seed)
    shared = " ".join(random_source.choices(WORDS, k=shared_words))
    return [(shared + " " if shared else "") + " ".join(random_source.choices(WORDS, k=words)) for _ in range(count)]


class Exchange(asyncio.Protocol):
    """One streamed request on one connection of its own; notes when bytes came and keeps them."""

    def __init__(self, request):
        self.request = request
        self.done = asyncio.get_running_loop().create_future()
        self.parts = []
        self.tail = b""

    def connection_made(self, transport):
        self.transport = transport
        self.sent = time.perf_counter()
        transport.write(self.request)

    def data_received(self, data):
        self.parts.append((time.perf_counter(), data))
        self.tail = (self.tail + data)[-7:]
        if self.tail == b"\r\n0\r\n\r\n":  # the last chunk; a server that closes by itself needs no look
            self.transport.close()

    def connection_lost(self, error):
        self.ended = time.perf_counter()
        if not self.done.done():
            self.done.set_result(error)


def decode(exchange):
    """(times of events with text, completion tokens) of what came; raises ValueError for anything but a whole stream."""
    raw = b"".join(data for _, data in exchange.parts)
    head, _, rest = raw.partition(b"\r\n\r\n")
    if b" 200 " not in head[:16]:
        raise ValueError((head[:40] + b" ... " + rest[:200]).decode(errors="replace"))
    ends, total = [], 0  # the position in `raw` after each part, to find when a byte came
    for when, data in exchange.parts:
        total += len(data)
        ends.append((total, when))
    chunked = b"chunked" in head.lower()
    body, origin, at = bytearray(), [], len(head) + 4
    if chunked:
        while True:
            line_end = raw.index(b"\r\n", at)
            size = int(raw[at:line_end].split(b";")[0], 16)
            if size == 0:
                break
            origin.append((len(body), line_end + 2))
            body += raw[line_end + 2:line_end + 2 + size]
            at = line_end + 2 + size + 2
    else:
        origin.append((0, at))
        body += raw[at:]
    times, tokens, finished = [], None, False
    start, piece, part = 0, 0, 0
    while (end := body.find(b"\n\n", start)) >= 0:
        event = bytes(body[start:end]).strip()
        last = end + 1
        while piece + 1 < len(origin) and origin[piece + 1][0] <= last:
            piece += 1
        position = origin[piece][1] + last - origin[piece][0]
        while ends[part][0] <= position:
            part += 1
        start = end + 2
        if not event.startswith(b"data:"):
            continue
        data = event[5:].strip()
        if data == b"[DONE]":
            finished = True
            continue
        o = json.loads(data)
        if "error" in o:
            raise ValueError(str(o["error"]))
        if o.get("usage"):
            tokens = o["usage"]["completion_tokens"]
        if any(c.get("text") or c.get("delta", {}).get("content") for c in o.get("choices", ())):
            times.append(ends[part][1])
    if not finished:
        raise ValueError("the stream ended without [DONE]")
    return times, len(times) if tokens is None else tokens


async def drive(host, port, prompts, concurrency, output, model):
    loop = asyncio.get_running_loop()
    exchanges = []
    waiting = iter(prompts)

    async def client():
        for prompt in waiting:
            fields = {"prompt": prompt, "max_tokens": output, "temperature": 0, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
            if model:
                fields["model"] = model
            body = json.dumps(fields).encode()
            request = (f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
                       f"Content-Length: {len(body)}\r\n\r\n").encode() + body
            _, exchange = await loop.create_connection(lambda: Exchange(request), host, port)
            exchanges.append(exchange)
            await exchange.done

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return exchanges, time.perf_counter() - started


def run_load(url, *, concurrency, requests, words, output, shared_words=0, seed=1, model=None):
    """Runs the load to its end and returns the numbers: seconds, tokens per second, percentiles in milliseconds, errors."""
    parts = urllib.parse.urlsplit(url)
    cpu = time.process_time()
    exchanges, wall = asyncio.run(drive(parts.hostname, parts.port or 80, make_prompts(requests, words, shared_words, seed), concurrency, output, model))
    cpu = time.process_time() - cpu
    first, gaps, whole, tokens, events, errors = [], [], [], 0, 0, []
    for e in exchanges:
        try:
            times, n = decode(e)
        except (ValueError, IndexError, KeyError) as error:
            errors.append(str(error)[:300])
            continue
        tokens += n
        events += len(times)
        whole.append(e.ended - e.sent)
        if times:
            first.append(times[0] - e.sent)
            gaps += [b - a for a, b in zip(times, times[1:])]
    result = {"seconds": wall, "requests": len(exchanges), "errors": errors, "tokens": tokens, "events": events,
              "tokens_per_second": tokens / wall, "client_cores": cpu / wall}
    for name, values in (("ttft", first), ("itl", gaps), ("e2e", whole)):
        values.sort()
        for share in (0.5, 0.9, 0.99):
            result[f"{name}_p{round(share * 100)}_ms"] = percentile(values, share) * 1e3
        result[f"{name}_max_ms"] = (values[-1] if values else float("nan")) * 1e3
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("-c", "--concurrency", type=int, default=32)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--prompt-words", type=int, default=64)
    parser.add_argument("--shared-words", type=int, default=0)
    parser.add_argument("--output", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", help="the request's model field")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    r = run_load(a.url, concurrency=a.concurrency, requests=a.requests, words=a.prompt_words, output=a.output, shared_words=a.shared_words, seed=a.seed, model=a.model)
    if a.json:
        print(json.dumps(r))
    else:
        print(f"{r['requests']} requests, {len(r['errors'])} errors, {r['tokens']} tokens in {r['seconds']:.2f} s: {r['tokens_per_second']:.1f} tokens/s "
              f"({r['events']} events, the client used {r['client_cores']:.2f} cores)")
        for name, title in (("ttft", "first token"), ("itl", "between events"), ("e2e", "whole answer")):
            print(f"{title:<15} p50 {r[name + '_p50_ms']:.1f} ms, p90 {r[name + '_p90_ms']:.1f} ms, p99 {r[name + '_p99_ms']:.1f} ms, max {r[name + '_max_ms']:.1f} ms")
    for error in sorted(set(r["errors"])):
        print("error:", error, file=sys.stderr)
    return 3 if r["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
