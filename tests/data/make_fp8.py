#!/usr/bin/env python3
"""make_fp8.py: makes tests/data/model/llama-fp8 from tests/data/model/llama: linear layers in F8_E4M3 with one scale per tensor.

As llm-compressor writes such a folder (compressed-tensors, float-quantized): NAME.weight_scale F32 [1] (here BF16 for o_proj, which
occurs too) beside NAME.weight, an input_scale that weight-only readers ignore, embedding, norms and head as they were. logits.f16
and greedy.txt come from the forward pass below, in double precision over the dequantized weights; the same pass over the source's
weights must first agree with the source's own logits, which are transformers'. Needs Python only.
"""
import json
import math
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent / "model"
SOURCE, TARGET = HERE / "llama", HERE / "llama-fp8"
N_PROMPTS = 2  # of the source's


def e4m3(code):
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    if code & 127 == 127:
        return math.nan
    return sign * (mantissa / 8 * 2.0 ** -6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


POSITIVE = [e4m3(c) for c in range(127)]


def encode(x):
    """The nearest code, of two the even one."""
    low = max(c for c in range(127) if POSITIVE[c] <= abs(x))
    best = min((c for c in (low, min(low + 1, 126))), key=lambda c: (abs(POSITIVE[c] - abs(x)), c & 1))
    return best | (128 if x < 0 else 0)


def bf16(x):
    """Rounded to bf16, to nearest even."""
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def of_bf16(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


def read(path):
    """name -> (dtype, shape, bytes)"""
    data = path.read_bytes()
    (n,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + n])
    return {k: (v["dtype"], v["shape"], data[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in header.items() if k != "__metadata__"}


def write(path, tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def values(tensor):
    dtype, _, raw = tensor
    assert dtype == "BF16", dtype
    return [of_bf16(b) for b in struct.unpack(f"<{len(raw) // 2}H", raw)]


def rows(flat, cols):
    return [flat[i:i + cols] for i in range(0, len(flat), cols)]


def product(matrix, x):
    return [sum(map(float.__mul__, row, x)) for row in matrix]


class Decoder:
    """transformers' LlamaForCausalLM: RMS norm, rotary embedding over halves, grouped attention, SiLU gate."""

    def __init__(self, config, weights):
        self.c, self.w = config, weights
        self.dim = config["hidden_size"] // config["num_attention_heads"]
        self.cache = [([], []) for _ in range(config["num_hidden_layers"])]
        self.position = 0

    def norm(self, x, name):
        scale = 1 / math.sqrt(sum(v * v for v in x) / len(x) + self.c["rms_norm_eps"])
        return [v * scale * g for v, g in zip(x, self.w[name + ".weight"][0])]

    def heads(self, x, rotate=True):
        out, half = rows(x, self.dim), self.dim // 2
        if rotate:
            for k, h in enumerate(out):
                angles = [self.position * self.c["rope_theta"] ** (-i / half) for i in range(half)]
                out[k] = ([h[i] * math.cos(a) - h[i + half] * math.sin(a) for i, a in enumerate(angles)] +
                          [h[i + half] * math.cos(a) + h[i] * math.sin(a) for i, a in enumerate(angles)])
        return out

    def step(self, token):
        x = self.w["model.embed_tokens.weight"][token]
        group = self.c["num_attention_heads"] // self.c["num_key_value_heads"]
        for i, (keys, vals) in enumerate(self.cache):
            at = f"model.layers.{i}."
            y = self.norm(x, at + "input_layernorm")
            linear = lambda name, v: product(self.w[at + name + ".weight"], v)
            q = self.heads(linear("self_attn.q_proj", y))
            keys.append(self.heads(linear("self_attn.k_proj", y)))
            vals.append(self.heads(linear("self_attn.v_proj", y), rotate=False))
            mixed = []
            for h, query in enumerate(q):
                scores = [sum(map(float.__mul__, query, k[h // group])) / math.sqrt(self.dim) for k in keys]
                top = max(scores)
                p = [math.exp(s - top) for s in scores]
                total = sum(p)
                mixed += [sum(a * v[h // group][d] for a, v in zip(p, vals)) / total for d in range(self.dim)]
            x = [a + b for a, b in zip(x, linear("self_attn.o_proj", mixed))]
            y = self.norm(x, at + "post_attention_layernorm")
            gated = [g / (1 + math.exp(-g)) * u for g, u in zip(linear("mlp.gate_proj", y), linear("mlp.up_proj", y))]
            x = [a + b for a, b in zip(x, linear("mlp.down_proj", gated))]
        self.position += 1
        return product(self.w["lm_head.weight"], self.norm(x, "model.norm"))


def main():
    config = json.loads((SOURCE / "config.json").read_text())
    tensors = read(SOURCE / "model.safetensors")
    prompts = [[int(i) for i in line.split()] for line in (SOURCE / "prompts.txt").read_text().splitlines()]
    greedy = [line.split() for line in (SOURCE / "greedy.txt").read_text().splitlines()]
    vocab = config["vocab_size"]

    weights = {name: rows(values(t), t[1][-1]) for name, t in tensors.items()}
    own = Decoder(config, weights)
    for t, token in enumerate(prompts[0][:8]):
        want = struct.unpack_from(f"<{vocab}e", (SOURCE / "logits.f16").read_bytes(), 2 * t * vocab)
        worst = max(abs(a - b) for a, b in zip(own.step(token), want))
        assert worst < 2e-3 * max(map(abs, want)), f"the forward pass below is not transformers': {worst} at {t}"

    out = {}
    for name, tensor in tensors.items():
        if not name.endswith("_proj.weight"):
            out[name] = tensor
            continue
        flat = values(tensor)
        scale = struct.unpack("<f", struct.pack("<f", max(map(abs, flat)) / 448))[0]
        short = name.endswith("o_proj.weight")
        if short:
            scale = of_bf16(bf16(scale))
        codes = [encode(max(-448.0, min(448.0, x / scale))) for x in flat]
        out[name] = ("F8_E4M3", tensor[1], bytes(codes))
        out[name + "_scale"] = ("BF16", [1], struct.pack("<H", bf16(scale))) if short else ("F32", [1], struct.pack("<f", scale))
        out[name.replace(".weight", ".input_scale")] = ("F32", [1], struct.pack("<f", 0.125))
        weights[name] = rows([e4m3(c) * scale for c in codes], tensor[1][-1])

    TARGET.mkdir(exist_ok=True)
    write(TARGET / "model.safetensors", out)
    side = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
                                     "config_groups": {"group_0": {"targets": ["Linear"], "weights": side, "input_activations": side}}}
    (TARGET / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    with open(TARGET / "prompts.txt", "w") as p, open(TARGET / "greedy.txt", "w") as g, open(TARGET / "logits.f16", "wb") as l:
        for k in range(N_PROMPTS):
            decoder = Decoder(config, weights)
            for token in prompts[k]:
                logits = decoder.step(token)
                l.write(struct.pack(f"<{vocab}e", *logits))
            answer = []
            for _ in greedy[k]:
                answer.append(logits.index(max(logits)))
                logits = decoder.step(answer[-1])
            p.write(" ".join(map(str, prompts[k])) + "\n")
            g.write(" ".join(map(str, answer)) + "\n")


if __name__ == "__main__":
    main()
