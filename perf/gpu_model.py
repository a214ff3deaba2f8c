#!/usr/bin/env python3
"""A model with random weights on a GPU, each row as a share of what the card gives at most, measured in the same run.

    perf/gpu_model.py [--preset llama-3.1-8b] [--batches 1,64,256] [--prompt 2048] [--tp 2] [--serve 64] [--deterministic]

Needs perf_gpu_ceiling beside the program or named by --ceiling. Decode of one sequence is held against the bytes of the
weights that a token reads (all but the embedding) at the read bandwidth, prompts against two operations per weight and
token at the bf16 rate; attention is not counted, so shares are a little low. Of experts a token passes a few; a step reads
those that its tokens would choose between them if all were chosen alike. Below each row of decode: what a step costs the
host (the scheduler's planning, the rank's launch) and how long the card is idle between two queued steps, as shares of the
step's time, the latter also as a ratio to what lies between two graphs of kernels that do nothing; they are of the last 512 steps, so --rounds below 3 would mix two rows. --tp N: the same rows on N cards, as a
ratio to one. --serve N: N streams over HTTP of 512 words in and 128 tokens out, and the host's mean time per step, out of
/metrics. --deterministic: its price, as a ratio.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))


def config_of(preset):
    with open(os.path.join(HERE, "../config/models", preset + ".json")) as f:
        return json.load(f)


def weights(c, tokens=1):
    """Weights that so many tokens together read: every matrix of every layer, but of experts those that somebody chose, and the head.
    Of one token: also those that it passes."""
    head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    q, kv = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim
    layer = c["hidden_size"] * (2 * q + 2 * kv)
    experts = c.get("num_experts") or c.get("num_local_experts") or 0
    if experts:
        chosen = experts * (1 - (1 - c["num_experts_per_tok"] / experts) ** tokens)
        layer += c["hidden_size"] * experts + chosen * 3 * c["hidden_size"] * (c.get("moe_intermediate_size") or c["intermediate_size"])
    else:
        layer += 3 * c["hidden_size"] * c["intermediate_size"]
    return c["num_hidden_layers"] * layer + c["vocab_size"] * c["hidden_size"]


TIMES = r"([\d.]+) us \(p50\), ([\d.]+) us \(p99\)"


def host_times(log):
    """{what: (p50, p99)} in microseconds, out of the debug log of a bench."""
    m = re.search(rf"decode steps: planned in {TIMES}, launched in {TIMES}", log)
    if not m:
        sys.exit(f"the debug log says nothing of decode steps:\n{log}")
    planned50, planned99, launched50, launched99 = map(float, m.groups())
    out = {"planning": (planned50, planned99), "launch": (launched50, launched99)}
    if m := re.search(rf"device 0: idle between \d+ queued steps for {TIMES}", log):
        out["card idle"] = tuple(map(float, m.groups()))
    return out


def bench(a, batches, *more):
    """tokens/s by test, and the host's times by test of decode."""
    common = [a.troupe, "bench", a.preset, "--load-format", "dummy", "--device", "cuda", "--warm-up", "--json", "--log-level", "debug",
              "-r", str(a.rounds), *more]
    out, host = {}, {}
    for arguments in [["-p", str(a.prompt), "-n", "128"]] + [["-p", "0", "-n", "128", "-b", str(n)] for n in batches]:
        done = subprocess.run([*common, *arguments], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join([*common, *arguments])}\n{done.stderr}")
        for r in json.loads(done.stdout):
            out.setdefault(r["test"], r["median"])
        host[r["test"]] = host_times(done.stderr)  # of the test that ran last
    return out, host


def print_host(times, step, gap):
    """`step`, and `gap` between two empty graphs: seconds."""
    for what, both in times.items():
        print(f"  {what:<12}" + "   ".join(f"{name} {t:9.1f} us {100e-6 * t / step:6.2f} %" for name, t in zip(("p50", "p99"), both))
              + ("   ratio " + ", ".join(f"{1e-6 * t / gap:.2f}" for t in both) if what == "card idle" else ""))


def step_sums(port):
    """Seconds that steps took, those of the host, and how many steps there were, until now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        return sums_of(reply.read().decode())


def sums_of(text):
    return [float(re.search(rf"^troupe:{name}{{[^}}]*}} (\S+)$", text, re.M)[1])
            for name in ("step_seconds_sum", "step_host_seconds_sum", "step_host_seconds_count")]


def serve(a, streams):
    port = "8093"
    server = subprocess.Popen([a.troupe, "serve", a.preset, "--load-format", "dummy", "--device", "cuda", "--warm-up", "--port", port,
                               "--max-num-seqs", str(streams), "--max-model-len", "2048", "--max-requests", str(4 * streams)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            time.sleep(0.5)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5)
                break
            except OSError:
                pass
        load = [sys.executable, os.path.join(HERE, "load.py"), f"http://127.0.0.1:{port}", "-c", str(streams), "--prompt-words", "512", "--output", "128"]
        subprocess.run([*load, "--requests", str(streams)], capture_output=True)  # warms caches up
        before = step_sums(port)
        said = subprocess.run([*load, "--requests", str(4 * streams)], capture_output=True, text=True).stdout.strip()
        steps, host, n = (b - a for a, b in zip(before, step_sums(port)))
        return f"{said}\nhost: {1e6 * host / n:.1f} us a step, the mean of {n:.0f}: {100 * host / steps:.2f} % of {1e3 * steps / n:.2f} ms"
    finally:
        server.terminate()
        server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--troupe", default=os.path.join(HERE, "../build/release/troupe"))
    parser.add_argument("--ceiling", help="perf_gpu_ceiling (default: beside --troupe)")
    parser.add_argument("--preset", default="llama-3.1-8b")
    parser.add_argument("--batches", type=lambda t: [int(n) for n in t.split(",")], default=[64, 256])
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--serve", type=int, default=0)
    parser.add_argument("--deterministic", action="store_true")
    a = parser.parse_args()
    ceiling = json.loads(subprocess.run([a.ceiling or os.path.join(os.path.dirname(a.troupe), "perf_gpu_ceiling")], capture_output=True,
                                        text=True, check=True).stdout)
    read, rate = ceiling["read_bytes_per_second"], ceiling["bf16_per_second"]
    config = config_of(a.preset)
    n = weights(config)
    print(f"{ceiling['card']}: reads {read / 1e12:.2f} TB/s, bf16 {rate / 1e12:.0f} TFLOP/s, {1e6 * ceiling['graph_gap_seconds']:.1f} us between empty graphs; {a.preset}, {n / 1e9:.2f} G weights a token")
    one, host = bench(a, a.batches)
    for test, tokens in one.items():
        batch = int(test.removeprefix("batch")) if test.startswith("batch") else 1
        share = tokens * 2 * n / rate if test.startswith("pp") else tokens / batch * 2 * weights(config, batch) / read
        print(f"{test:<12}{tokens:>12.1f} tokens/s   {100 * share:5.1f} % of the ceiling")
        if a.rounds >= 3:
            print_host(host.get(test, {}), batch / tokens, ceiling["graph_gap_seconds"])
    for what, more in ((f"{a.tp} cards", ["--tensor-parallel-size", str(a.tp)]), ("deterministic", ["--deterministic"])):
        if (a.tp == 1 and "cards" in what) or (not a.deterministic and what == "deterministic"):
            continue
        for test, tokens in bench(a, a.batches if "cards" in what else [], *more)[0].items():
            print(f"{test:<12}{tokens:>12.1f} tokens/s   {tokens / one[test]:5.2f} of one card as usual, {what}")
    if a.serve:
        print(f"{a.serve} streams of 512 words in, 128 tokens out, over HTTP:\n{serve(a, a.serve)}")


if __name__ == "__main__":
    main()
