#!/usr/bin/env python3
"""Prompt processing and generation speed: `troupe bench` beside llama-bench, in turn, medians and ratio.

    perf/compare_llama.py --llama BIN_DIR --model FILE.gguf [-t THREADS] [-r ROUNDS] [-d 0,2048] [--pin 0,1] [--gpu]

Both measure tokens per second of a prompt of 512 tokens and of 128 generated ones, after a warm-up. Each round is one
process of each side, so that neither profits from a quiet minute. Ratio: Troupe / llama.cpp, above 1 Troupe is faster.
"""
import argparse
import json

from measure import Watch, add_common_options, chosen, interleaved, llama_environment, llama_program, machine, median, ratio, run, spread


def numbers(text):
    return [int(n) for n in text.split(",") if n]


def name_of(n_prompt, n_gen, depth):
    return (f"pp{n_prompt}" if n_prompt else f"tg{n_gen}") + (f"@{depth}" if depth else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, 5)
    parser.add_argument("-p", type=numbers, default=[512], help="prompt lengths (default: 512)")
    parser.add_argument("-n", type=numbers, default=[128], help="tokens to generate (default: 128)")
    parser.add_argument("-d", type=numbers, default=[0], help="context before generation (default: 0)")
    parser.add_argument("-ctk", default="f16", help="type of llama.cpp's KV cache, keys and values (default: f16, its own)")
    parser.add_argument("--gpu", action="store_true", help="both on the first GPU (a llama.cpp built with GGML_CUDA); else both on the CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    a = parser.parse_args()
    lists = [",".join(map(str, x)) for x in (a.p, a.n, a.d)]

    def llama():
        command = [llama_program(a.llama, "llama-bench"), "-m", a.model, "-n", lists[1], "-d", lists[2], "-t", str(a.threads),
                   "-r", "1", "-ctk", a.ctk, "-ctv", a.ctk, "-fa", "1" if a.gpu else "auto", "-ngl", "99" if a.gpu else "0", "-o", "json"]
        with Watch() as w:
            rows = json.loads(run([*command, "-p", "0"], a.pin, env=llama_environment(a.llama)))
            rows += json.loads(run([*command[:3], "-p", lists[0], "-n", "0", *command[7:]], a.pin, env=llama_environment(a.llama)))
        return {name_of(r["n_prompt"], r["n_gen"], r["n_depth"]): r["avg_ts"] for r in rows}, w.others

    def troupe():
        with Watch() as w:
            rows = json.loads(run([a.troupe, "bench", a.model, "-p", lists[0], "-n", lists[1], "-d", lists[2], "-t", str(a.threads),
                                   "--device", "cuda" if a.gpu else "cpu", "-r", "1", "--json"], a.pin))
        return {r["test"]: r["median"] for r in rows}, w.others

    results = interleaved(chosen({"llama.cpp": llama, "troupe": troupe}, a.only), a)
    tests = [name_of(n, 0, 0) for n in a.p] + [name_of(0, n, d) for n in a.n for d in a.d]
    table = {test: {side: [one[test] for one in runs] for side, runs in results.items()} for test in tests}
    if a.json:
        print(json.dumps({"machine": machine(), "threads": a.threads, "samples": table}))
        return
    print(f"{machine()}; {'on the GPU' if a.gpu else str(a.threads) + ' threads'}; {a.model}")
    print(f"{'test':<12}{'llama.cpp':>12}{'troupe':>12}{'ratio':>8}   ranges")
    for test, sides in table.items():
        them, us = sides.get("llama.cpp", []), sides.get("troupe", [])
        print(f"{test:<12}{median(them):>12.2f}{median(us):>12.2f}{ratio(us, them):>8.3f}   {spread(them)}; {spread(us)}")


if __name__ == "__main__":
    main()
