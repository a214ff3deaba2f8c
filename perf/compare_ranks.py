#!/usr/bin/env python3
"""What dividing a model among CPU ranks costs or gains: `troupe bench` with N ranks beside one rank, in turn, with as many threads in all.

    perf/compare_ranks.py --model FILE.gguf [--ranks 2] [-t THREADS] [-r ROUNDS] [-d 0,2048] [--pin 0,1]

On one host ranks share caches and memory with what would be the same threads of one rank, so the ratio (N ranks / one, below 1 the ranks
are slower) is the price of the exchanges; ranks are for what one process cannot have, another host's or socket's memory.
"""
import argparse
import json

from measure import Watch, add_common_options, interleaved, machine, median, ratio, run, spread


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser, 5, peer=False)
    parser.add_argument("--ranks", type=int, default=2, help="default: 2")
    parser.add_argument("-p", default="512", help="prompt lengths (default: 512)")
    parser.add_argument("-n", default="128", help="tokens to generate (default: 128)")
    parser.add_argument("-d", default="0", help="context before generation (default: 0)")
    parser.add_argument("-b", default="", help="parallel sequences, as 8,32 (default: none)")
    a = parser.parse_args()

    def bench(*options):
        def one_run():
            command = [a.troupe, "bench", a.model, "-p", a.p, "-n", a.n, "-d", a.d, "-t", str(a.threads), "--device", "cpu", "-r", "1", "--json", *options]
            with Watch() as w:
                rows = json.loads(run(command + (["-b", a.b] if a.b else []), a.pin))
            return {r["test"]: r["median"] for r in rows}, w.others
        return one_run

    results = interleaved({"one": bench(), "ranks": bench("--tensor-parallel-size", str(a.ranks))}, a)
    print(f"{machine()}; {a.threads} threads; {a.model}")
    print(f"{'test':<12}{'one rank':>12}{f'{a.ranks} ranks':>12}{'ratio':>8}   ranges")
    for test in results["one"][0]:
        one, ranks = ([r[test] for r in results[side]] for side in ("one", "ranks"))
        print(f"{test:<12}{median(one):>12.2f}{median(ranks):>12.2f}{ratio(ranks, one):>8.3f}   {spread(one)}; {spread(ranks)}")


if __name__ == "__main__":
    main()
