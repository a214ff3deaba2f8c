#!/usr/bin/env python3
"""All comparisons in one go on a quiet machine, and one table at the end: what the scripts and programs of this folder measure, both sides
pinned to the same two cores, the load's client on others.

    perf/compare_all.py --llama BIN_DIR --model FILE.gguf [--programs DIR] [--budget 300] [--logs DIR] [--skip start,hop]

--programs holds `troupe` and the perf_* programs (default: build/perf and build/perf/perf). Stages share the budget (1.4 times of it is
the end); each keeps what it prints in --logs. A stage that fails is named in the table, and the others run all the same.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import time

from measure import llama_program, machine, median, ratio, spread

HERE = os.path.dirname(os.path.abspath(__file__))


def two_cores():
    """Two processors of two cores, and whether enough others are left for a client."""
    cores = {}
    allowed = os.sched_getaffinity(0)
    for cpu in sorted(allowed):
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as f:
                core = f.read().strip()
        except OSError:
            core = str(cpu)
        cores.setdefault(core, cpu)
    return ",".join(map(str, list(cores.values())[:2])), len(allowed) >= 4


class Table:
    def __init__(self):
        self.rows = []

    def add(self, title, unit, us, them, better="more"):
        """`us` and `them` are lists of samples; without `them` there is nothing to compare with."""
        self.rows.append((title, unit, us, them, better))

    def note(self, title, text):
        self.rows.append((title, text, None, None, None))

    def print(self):
        print(f"{'':<48}{'troupe':>12}{'peer':>12}{'ratio':>8}   ranges")
        for title, unit, us, them, better in self.rows:
            if us is None:
                print(f"{title:<48}{unit}")
            elif them is None:
                print(f"{title + ', ' + unit:<48}{median(us):>12.2f}{'':>12}{'':>8}   {spread(us)}")
            else:
                sign = ">" if better == "more" else "<"
                print(f"{title + ', ' + unit:<48}{median(us):>12.2f}{median(them):>12.2f}{ratio(us, them):>8.3f} {sign} {spread(us)}; {spread(them)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", required=True, metavar="BIN_DIR")
    parser.add_argument("--model", required=True)
    parser.add_argument("--programs", metavar="DIR", default=os.path.join(HERE, "../build/perf"))
    parser.add_argument("--budget", type=float, default=300, metavar="SECONDS")
    parser.add_argument("--logs", metavar="DIR", default=".")
    parser.add_argument("--pin", metavar="CPUS", help="two processors (default: of the first two cores)")
    parser.add_argument("--skip", default="", help="stages to leave out: server, two, one, start, mailbox, hop, step")
    parser.add_argument("--keep", action="store_true", help="count rounds in which others used the machine")
    a = parser.parse_args()
    skip = set(filter(None, a.skip.split(",")))
    pin, roomy = two_cores()
    pin = a.pin or pin
    table, started = Table(), time.monotonic()
    os.makedirs(a.logs, exist_ok=True)
    llama_program(a.llama, "llama-bench")

    def program(name):
        for folder in (a.programs, os.path.join(a.programs, "perf")):
            if os.access(os.path.join(folder, name), os.X_OK):
                return os.path.join(folder, name)
        return os.path.join(a.programs, name)

    def stage(name, command, limit):
        """Its standard output; None if it failed or was skipped."""
        if name in skip:
            return None
        limit = min(limit, started + 1.4 * a.budget - time.monotonic())
        if limit < 5:
            table.note(name, "left out: no time is left")
            return None
        log = os.path.join(a.logs, name + ".log")
        print(f"== {name}: {' '.join(command)}", file=sys.stderr, flush=True)
        begin = time.monotonic()
        with open(log, "w") as errors:
            try:
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
            except OSError as error:
                table.note(name, f"did not start: {error}")
                return None
            try:
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # the script and the servers that it runs
                process.wait()
                table.note(name, f"stopped after {limit:.0f} s, see {log}")
                return None
        with open(log, "a") as out:
            out.write(output)
        print(f"   {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
        if process.returncode not in (0, 3):
            table.note(name, f"ended with {process.returncode}, see {log}")
            return None
        return output

    def compare(name, script, *more, share, threads=2):
        command = [sys.executable, "-B", os.path.join(HERE, script), "--llama", a.llama, "--model", a.model, "--troupe", program("troupe"), "--pin", pin,
                   "-t", str(threads), "--budget", str(a.budget * share), "--json", *more]
        if a.keep:
            command.append("--keep")
        output = stage(name, command, 1.5 * a.budget * share + 20)
        return None if output is None else json.loads(output)

    def benchmarks(name, *more):
        output = stage(name, [program("perf_" + name), "--benchmark_format=json", *more], 90)
        return {} if output is None else {b["name"]: b for b in json.loads(output)["benchmarks"]}

    # Most valuable first: whoever stops it early has those.
    result = compare("server", "compare_server.py", "-r", "3", "-c", "32", "--requests", "64", "--output", "64", share=0.5)
    if result:
        us, them = ([r for r in result["rounds"].get(side, [])] for side in ("troupe", "llama.cpp"))
        for key, unit, better in (("tokens_per_second", "tokens/s", "more"), ("itl_p99_ms", "gap p99, ms", "less"), ("ttft_p50_ms", "first token p50, ms", "less"),
                                  ("peak_mb", "memory peak, MB", "less")):
            table.add("32 streams", unit, [r[key] for r in us], [r[key] for r in them], better)
        n_errors = sum(len(r["errors"]) for r in us + them)
        if n_errors:
            table.note("32 streams", f"{n_errors} requests failed")
    for name, threads in (("two", 2), ("one", 1)):
        result = compare(name, "compare_llama.py", "-r", "5", share=0.18, threads=threads)
        if result:
            for test, sides in result["samples"].items():
                table.add(f"{test}, {threads} thread{'s' if threads > 1 else ''}", "tokens/s", sides.get("troupe", []), sides.get("llama.cpp", []))
    result = compare("start", "compare_start.py", "-r", "15", share=0.1)
    if result:
        first = {side: [r["first"] for r in runs] for side, runs in result["rounds"].items()}
        for side, title in (("llama.cpp", "start to first text"), ("llama.cpp --no-warmup", "the same, peer without warm-up")):
            table.add(title, "ms", first.get("troupe", []), first.get(side, []), "less")
    for name, b in benchmarks("mailbox", "--benchmark_filter=under_load|send_and_receive|same_loop|sound").items():
        if "mailbox_ns" in b:
            table.add(f"message under load, {name.split(':')[1].split('/')[0]} senders, beside a post", "ns", [b["mailbox_ns"]], [b["post_ns"]], "less")
        elif "items_per_second" in b:
            table.add(f"{name}, a message", "ns", [1e9 / b["items_per_second"]], None)
        elif "lost_after" in b:
            table.note(name, f"lost wakes: {'none' if not b['lost_after'] else 'one after %d' % b['lost_after']}")
    for name, b in benchmarks("hop").items():
        for key, unit in (("hop_us", "us"), ("p50_us", "us p50"), ("p99_us", "us p99")):
            if key in b:
                table.add(name.replace("/real_time", "").replace("/iterations:1000", ""), unit, [b[key]], None)
    for name, b in benchmarks("sched_step").items():
        n, cold = (part.split(":")[1] for part in name.split("/")[1:3])
        table.add(f"scheduler's step, {n} sequences{', cold' if cold == '1' else ''}", "us", [b["step_us"]], None)

    print(f"\n{machine()}; pinned to {pin}{'' if roomy else ', THE CLIENT SHARES THE CORES'}; {os.path.basename(a.model)}")
    table.print()


if __name__ == "__main__":
    main()
