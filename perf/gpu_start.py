#!/usr/bin/env python3
"""Start on a GPU: from the process's start to the first token of `troupe generate`, as a ratio to a floor of the same run.

    perf/gpu_start.py MODEL [-r 5]                            # a .gguf file or a folder of safetensors
    perf/gpu_start.py llama-3.1-8b --load-format dummy        # random weights in bf16: nothing is read

The floor is a process that has nothing to do but to make a CUDA context and to copy the weights' bytes out of pinned memory
that already holds them (perf_gpu_ceiling 0 start, beside the program or named by --ceiling): of a file its size, of random
weights two bytes each. Both sides run in turn, the file in the page cache. Ratio: Troupe / floor; 1 cannot be beaten.
"""
import argparse
import glob
import json
import os
import re
import tempfile

from compare_start import first_byte
from gpu_model import config_of, weights
from measure import machine, median, ratio, run, spread

HERE = os.path.dirname(os.path.abspath(__file__))


def files_of(model):
    """What holds the weights."""
    if os.path.isdir(model):
        return sorted(glob.glob(os.path.join(glob.escape(model), "*.safetensors")))
    if part := re.fullmatch(r"(.*-)00001(-of-\d{5}\.gguf)", model):
        return sorted(glob.glob(glob.escape(part[1]) + "?????" + glob.escape(part[2])))
    return [model]


def bytes_in_cache(files):
    """Their size, once they are in the page cache."""
    total = 0
    for path in files:
        with open(path, "rb", buffering=0) as f:
            while n := len(f.read(1 << 24)):
                total += n
    return total


def bytes_of_preset(preset):
    c = config_of(preset)
    embedding = 0 if c.get("tie_word_embeddings") else c["vocab_size"] * c["hidden_size"]
    return 2 * (weights(c, float("inf")) + embedding)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--load-format", choices=["auto", "dummy"], default="auto")
    parser.add_argument("--troupe", default=os.path.join(HERE, "../build/release/troupe"))
    parser.add_argument("--ceiling", help="perf_gpu_ceiling (default: beside --troupe)")
    parser.add_argument("-r", "--rounds", type=int, default=5)
    a = parser.parse_args()
    dummy = a.load_format == "dummy"
    n_bytes = bytes_of_preset(a.model) if dummy else bytes_in_cache(files_of(a.model))
    if not n_bytes:
        parser.error(f"{a.model} holds no weights")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as prompt:
        prompt.write("1 2 3 4 5 6 7 8\n")
        prompt.flush()
        troupe = [a.troupe, "generate", a.model, "--tokens", prompt.name, "-n", "1", "--ignore-eos", "--device", "cuda", "--load-format", a.load_format]
        ceiling = [a.ceiling or os.path.join(os.path.dirname(a.troupe), "perf_gpu_ceiling"), "0", "start"]
        run(troupe)  # libraries into the page cache
        rounds = [(first_byte(troupe)["first"] * 1e-3, json.loads(run(ceiling))) for _ in range(a.rounds)]
    seconds = [s for s, _ in rounds]
    floors = [c["context_seconds"] + n_bytes / c["upload_bytes_per_second"] for _, c in rounds]
    context, upload = (median([c[key] for _, c in rounds]) for key in ("context_seconds", "upload_bytes_per_second"))
    print(f"{rounds[0][1]['card']}; {machine()}; {os.path.basename(a.model)}{', random weights' if dummy else ''}, {n_bytes / 1e9:.2f} GB")
    print(f"first token {median(seconds):8.2f} s   ({spread(seconds)})")
    print(f"floor       {median(floors):8.2f} s   ({spread(floors)}): context {context:.2f} s, copies {n_bytes / upload:.2f} s at {upload / 1e9:.1f} GB/s")
    print(f"ratio       {ratio(seconds, floors):8.2f}")


if __name__ == "__main__":
    main()
