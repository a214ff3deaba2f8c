#!/usr/bin/env python3
"""make_model.py SOURCE: fills tests/data/model from a folder of tiny random decoders with reference outputs.

SOURCE/NAME holds config.json, safetensors, model-TYPE.gguf, and ref.npz (for a quantized GGUF ref-TYPE.npz) with, per
prompt k: ids_k int32 [n], logits_k float32 [n, vocab] of transformers in float32 over the stored weights, and
greedy_k int32 [m], its greedy continuation. What C++ reads from it:
  prompts.txt      one prompt per line, ids separated by blanks
  greedy.txt       one continuation per line (models with ref.npz only)
  logits.f16       all rows of all prompts, binary16: the rounding is 2^-12 relative, far below what tests allow
"""
import os, shutil, sys
import numpy as np

FILES = {
    "llama": ["config.json", "generation_config.json", "model.safetensors", "model-bf16.gguf"],
    "llama-bias": ["config.json", "model.safetensors", "model-bf16.gguf"],
    "llama-linear": ["model-bf16.gguf"],
    "llama-yarn": ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                   "model.safetensors.index.json", "model-f16.gguf"],
    "llama3-rope": ["config.json", "generation_config.json", "model.safetensors", "model-f16.gguf"],
    "llama-256": ["model-Q4_K_M.gguf"],
    "qwen3": ["config.json", "model.safetensors", "model-Q8_0.gguf"],
    "qwen3_moe": ["config.json", "model.safetensors", "model-f16.gguf"],
    "mixtral": ["config.json", "generation_config.json", "model.safetensors", "model-bf16.gguf"],
}
REFERENCE = {"llama-256": "ref-Q4_K_M.npz"}


def line(ids):
    return " ".join(str(int(i)) for i in ids) + "\n"


def main(source):
    target = os.path.join(os.path.dirname(os.path.abspath(__file__)), "model")
    for name, files in FILES.items():
        out = os.path.join(target, name)
        os.makedirs(out, exist_ok=True)
        for f in files:
            shutil.copyfile(os.path.join(source, name, f), os.path.join(out, f))
        ref = np.load(os.path.join(source, name, REFERENCE.get(name, "ref.npz")))
        n = sum(k.startswith("ids_") for k in ref)
        with open(os.path.join(out, "prompts.txt"), "w") as f:
            f.writelines(line(ref[f"ids_{k}"]) for k in range(n))
        if "greedy_0" in ref:
            with open(os.path.join(out, "greedy.txt"), "w") as f:
                f.writelines(line(ref[f"greedy_{k}"]) for k in range(n))
        np.concatenate([ref[f"logits_{k}"] for k in range(n)]).astype("<f2").tofile(os.path.join(out, "logits.f16"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
