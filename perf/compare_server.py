#!/usr/bin/env python3
"""Serving: `troupe serve` beside llama-server under the same load of perf/load.py, in turn.

    perf/compare_server.py --llama BIN_DIR --model FILE.gguf [-c 32] [--requests 128] [--prompt-words 64] [--output 128] [--pin 0,1]

Each round starts one server, warms it up, loads it, stops it, then the other. Printed: tokens per second (ratio above 1:
Troupe is faster) and 99th percentile of the gaps between events (ratio below 1: Troupe is smoother), first token, and memory.
"""
import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from load import run_load
from measure import (Watch, add_common_options, chosen, interleaved, leave_cpus, llama_environment, llama_program, machine, median, on_cpus, ratio,
                     spread)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Running:
    """A server process that answers /health before the with block begins."""

    def __init__(self, command, port, env=None, cpus=None):
        self.command, self.port, self.env, self.cpus = command, port, env, cpus
        self.url = f"http://127.0.0.1:{port}"

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+", errors="replace")
        started = time.monotonic()
        with on_cpus(self.cpus):
            self.process = subprocess.Popen(self.command, stdout=self.log, stderr=subprocess.STDOUT, env=self.env)
        while True:
            if self.process.poll() is not None or time.monotonic() - started > 120:
                self.process.kill()
                self.log.seek(0)
                sys.exit(f"{' '.join(self.command)} does not serve:\n{self.log.read()[-2000:]}")
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=1) as answer:
                    if answer.status == 200:
                        return self
            except OSError:
                time.sleep(0.02)

    def peak_bytes(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, 3)
    parser.add_argument("-c", "--concurrency", type=int, default=32)
    parser.add_argument("--requests", type=int, default=128, help="in each round (default: %(default)s)")
    parser.add_argument("--prompt-words", type=int, default=64)
    parser.add_argument("--shared-words", type=int, default=0, help="words at the beginning of every prompt that all share")
    parser.add_argument("--output", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--max-len", type=int, default=0, help="tokens of one sequence (default: what the load needs)")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    leave_cpus(a.pin)
    # Words of the list are one or two tokens in any vocabulary of use.
    length = a.max_len or 2 * (a.prompt_words + a.shared_words) + a.output + 32
    length = (length + 255) // 256 * 256

    def side(make_command, env=None):
        def once():
            port = free_port()
            with Running(make_command(port), port, env, a.pin) as server:
                options = dict(words=a.prompt_words, shared_words=a.shared_words)
                run_load(server.url, concurrency=a.concurrency, requests=a.concurrency, output=8, seed=99, **options)
                with Watch(server.process.pid) as w:
                    result = run_load(server.url, concurrency=a.concurrency, requests=a.requests, output=a.output, seed=1, **options)
                result["peak_mb"] = server.peak_bytes() / 1e6
                if result["errors"]:
                    print(f"{len(result['errors'])} errors: {result['errors'][0]}", file=sys.stderr)
                return result, w.others
        return once

    llama = side(lambda port: [llama_program(a.llama, "llama-server"), "-m", a.model, "--host", "127.0.0.1", "--port", str(port), "-np", str(a.concurrency),
                               "-c", str(length * a.concurrency), "-t", str(a.threads), "--offline"], llama_environment(a.llama))
    troupe = side(lambda port: [a.troupe, "serve", a.model, "--port", str(port), "--max-num-seqs", str(a.concurrency), "--max-model-len", str(length),
                                "--threads", str(a.threads)])
    results = interleaved(chosen({"llama.cpp": llama, "troupe": troupe}, a.only), a)
    if a.json:
        print(json.dumps({"machine": machine(), "threads": a.threads, "concurrency": a.concurrency, "rounds": results}))
        return 0
    print(f"{machine()}; {a.threads} threads; {os.path.basename(a.model)}; {a.concurrency} clients, {a.requests} requests of {a.prompt_words + a.shared_words} words and {a.output} tokens")
    print(f"{'':<22}{'llama.cpp':>12}{'troupe':>12}{'ratio':>8}   ranges")
    for key, title in (("tokens_per_second", "tokens/s"), ("itl_p99_ms", "gap p99, ms"), ("itl_p50_ms", "gap p50, ms"), ("ttft_p50_ms", "first token p50, ms"),
                       ("ttft_p99_ms", "first token p99, ms"), ("e2e_p99_ms", "whole p99, ms"), ("peak_mb", "memory peak, MB"), ("client_cores", "client, cores")):
        them, us = ([r[key] for r in results.get(name, [])] for name in ("llama.cpp", "troupe"))
        print(f"{title:<22}{median(them):>12.2f}{median(us):>12.2f}{ratio(us, them):>8.3f}   {spread(them)}; {spread(us)}")
    return 3 if any(r["errors"] for runs in results.values() for r in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
