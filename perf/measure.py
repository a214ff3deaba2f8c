"""What the comparison scripts share: the machine, who else used it during a run, pinning, medians, ratios."""
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import time

FLAGS = ("avx2", "fma", "f16c", "bmi2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")


def machine():
    """One line: processor, cores, those of its flags that kernels care for."""
    model, flags = "unknown processor", set()
    with open("/proc/cpuinfo") as f:
        for line in f:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
                break
    return f"{model}, {os.cpu_count()} cores, {' '.join(flag for flag in FLAGS if flag in flags) or 'none of the vector flags'}"


def all_busy_seconds():
    """Time that all cores of the machine have spent on anything but waiting; steal by a hypervisor counts as busy."""
    with open("/proc/stat") as f:
        user, nice, system, _, _, irq, softirq, steal, *_ = map(int, f.readline().split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def process_seconds(pid):
    """CPU time of a living process and its dead children."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    """CPU time of this process and of its children that have ended."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


class Watch:
    """with Watch(pid...) as w: ...; then w.seconds, and w.others: cores that others used meanwhile. `pids` name living
    servers whose time is ours; children that begin and end inside are ours by themselves."""

    def __init__(self, *pids):
        self.pids = pids

    def _own(self):
        return own_seconds() + sum(process_seconds(p) for p in self.pids)

    def __enter__(self):
        self._start = time.monotonic(), all_busy_seconds(), self._own()
        return self

    def __exit__(self, *_):
        start, busy, own = self._start
        self.seconds = time.monotonic() - start
        self.others = max(0.0, (all_busy_seconds() - busy) - (self._own() - own)) / max(self.seconds, 1e-9)


def cpu_set(text):
    """"0,2-3" as a set."""
    cpus = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


@contextlib.contextmanager
def on_cpus(cpus):
    """What is started inside inherits these processors; this process has its own again afterwards. None: all as it was."""
    before = os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def leave_cpus(cpus):
    """Moves this process, the client, off the processors of what it measures, if there are others."""
    rest = os.sched_getaffinity(0) - (cpus or set())
    if cpus and rest:
        os.sched_setaffinity(0, rest)


def interleaved(sides, a, say=lambda text: print(text, file=sys.stderr)):
    """Runs the sides in turn, `a.rounds` clean times each, and returns {name: [result]}; `a`: of add_common_options.

    `sides` is {name: function() -> (result, others)}. A round in which others used more than `a.others` cores during any side is
    discarded and repeated, up to three times `rounds` in all; with `keep`, or when no round was clean, it counts all the same.
    No round begins that would end after the budget, if all take as long as the longest.
    """
    rounds, limit, keep = a.rounds, a.others, a.keep
    clean, dirty = [], []
    names = list(sides)
    started, longest = time.monotonic(), 0.0
    for attempt in range(3 * rounds):
        begin = time.monotonic()
        if attempt and a.budget and begin - started + longest > a.budget:
            say(f"the budget of {a.budget:g} s ends here")
            break
        order = names if attempt % 2 == 0 else names[::-1]
        one = {name: sides[name]() for name in order}
        others = max(o for _, o in one.values())
        good = keep or others <= limit
        (clean if good else dirty).append({name: result for name, (result, _) in one.items()})
        longest = max(longest, time.monotonic() - begin)
        say(f"round {attempt + 1}: others used {others:.2f} cores{'' if others <= limit else ', kept' if keep else ', discarded'}")
        if len(clean) == rounds:
            break
    if not clean:
        say(f"NO CLEAN ROUND: others used more than {limit} cores in every one; the numbers below are of a busy machine")
        clean = dirty
    elif len(clean) < rounds:
        say(f"only {len(clean)} of {rounds} rounds were clean")
    return {name: [one[name] for one in clean] for name in names}


def add_common_options(parser, rounds, peer=True):
    if peer:
        parser.add_argument("--llama", required=True, metavar="BIN_DIR", help="folder with llama.cpp's programs (perf/build_llama_cpp.sh)")
        parser.add_argument("--only", choices=["llama.cpp", "troupe"], help="run one side, to try the script")
    parser.add_argument("--model", required=True, help="a .gguf file")
    parser.add_argument("--troupe", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../build/release/troupe"), help="the program (default: build/release/troupe)")
    parser.add_argument("-r", "--rounds", type=int, default=rounds, help="rounds, each runs both sides (default: %(default)s)")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count(), help="compute threads (default: all cores)")
    parser.add_argument("--others", type=float, default=0.1, metavar="CORES", help="discard rounds in which others used more than this (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="discard nothing")
    parser.add_argument("--budget", type=float, default=0, metavar="SECONDS", help="begin no round that would end later (default: none)")
    parser.add_argument("--pin", type=cpu_set, metavar="CPUS", help="processors for what is measured, as 0,2-3; the client keeps to the others")


def chosen(sides, only):
    return {name: f for name, f in sides.items() if only in (None, name)}


def run(command, cpus=None, **more):
    """Output of a command that must succeed."""
    with on_cpus(cpus):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def llama_program(folder, name):
    path = os.path.join(folder, name)
    if not os.access(path, os.X_OK):
        sys.exit(f"{path} is not there: build it with perf/build_llama_cpp.sh")
    return path


def llama_environment(folder):
    return {**os.environ, "LD_LIBRARY_PATH": folder + os.pathsep + os.environ.get("LD_LIBRARY_PATH", "")}


def median(values):
    return statistics.median(values) if values else float("nan")


def percentile(sorted_values, share):
    """Of ascending values, by nearest rank; nan without values."""
    if not sorted_values:
        return float("nan")
    return sorted_values[min(len(sorted_values) - 1, max(0, -(-int(share * len(sorted_values) * 1000) // 1000) - 1))]


def ratio(us, them):
    """Of two medians; nan where one side did not run."""
    return median(us) / median(them) if us and them and median(them) else float("nan")


def spread(values):
    return f"{min(values):.4g} – {max(values):.4g}" if values else "none"
