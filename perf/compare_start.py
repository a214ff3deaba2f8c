#!/usr/bin/env python3
"""Start: from the process's start to the first byte of text, with the model in the page cache, `troupe generate` beside llama-completion.

    perf/compare_start.py --llama BIN_DIR --model FILE.gguf [-r 15] [--pin 0,1]

llama.cpp runs twice: as it comes (with a warm-up pass before the prompt) and with --no-warmup. Ratio: Troupe / llama.cpp, below 1 Troupe is faster.
"""
import argparse
import json
import os
import subprocess
import sys
import time

from measure import (Watch, add_common_options, chosen, interleaved, leave_cpus, llama_environment, llama_program, machine, median, on_cpus, ratio,
                     spread)


def first_byte(command, env=None, cpus=None):
    """Milliseconds to the first byte on stdout, and to the end."""
    with open(os.devnull, "rb") as nothing:
        started = time.perf_counter()
        with on_cpus(cpus):
            process = subprocess.Popen(command, stdin=nothing, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, bufsize=0)
        byte = process.stdout.read(1)
        first = time.perf_counter() - started
        process.stdout.read()
        code = process.wait()
        whole = time.perf_counter() - started
        process.stdout.close()
    if code or not byte:
        sys.exit(f"{' '.join(command)} ended with {code} and {'text' if byte else 'no text'}")
    return {"first": first * 1e3, "whole": whole * 1e3}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, 15)
    parser.add_argument("--prompt", default="The capital of France is")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    leave_cpus(a.pin)
    with open(a.model, "rb") as f:
        while f.read(1 << 24):
            pass

    def side(command, env=None):
        def once():
            with Watch() as w:
                result = first_byte(command, env, a.pin)
            return result, w.others
        return once

    llama = [llama_program(a.llama, "llama-completion"), "-m", a.model, "-p", a.prompt, "-n", "1", "-t", str(a.threads), "--temp", "0", "-no-cnv", "--no-display-prompt"]
    env = llama_environment(a.llama)
    sides = {"llama.cpp": side(llama, env), "llama.cpp --no-warmup": side([*llama, "--no-warmup"], env),
             "troupe": side([a.troupe, "generate", a.model, "--prompt", a.prompt, "-n", "1", "-t", str(a.threads), "--temperature", "0"])}
    if a.only == "llama.cpp":
        del sides["troupe"]
    else:
        sides = chosen(sides, a.only)
    for once in sides.values():
        once()  # libraries into the page cache
    results = interleaved(sides, a)
    if a.json:
        print(json.dumps({"machine": machine(), "threads": a.threads, "rounds": results}))
        return
    print(f"{machine()}; {a.threads} threads; {os.path.basename(a.model)}")
    us = [r["first"] for r in results.get("troupe", [])]
    print(f"{'':<24}{'first byte':>12}{'to the end':>12}{'ratio':>8}   range of the first byte, ms")
    for name, runs in results.items():
        first = [r["first"] for r in runs]
        print(f"{name:<24}{median(first):>12.1f}{median([r['whole'] for r in runs]):>12.1f}{ratio(us, first):>8.3f}   {spread(first)}")


if __name__ == "__main__":
    main()
