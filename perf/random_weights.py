#!/usr/bin/env python3
"""Models with random matrices: of the shape of a GGUF file, carried without its own where the whole is too much, or of a configuration.

    perf/random_weights.py strip MODEL.gguf SHAPE.xz     # metadata, vocabulary and f32 tensors (norms): 1 MB for SmolLM2
    perf/random_weights.py fill  SHAPE.xz RANDOM.gguf    # as many bytes as MODEL.gguf, the same ones each time
    perf/random_weights.py folder CONFIG.json FOLDER     # config.json and bf16 safetensors of a Llama with that configuration

Speed does not depend on the weights' values: quants are uniform, scales such that values spread by 0.02 around 0, as in a model
that was not trained yet. The text that comes out is noise. Types: f32, q4_0, q4_1, q8_0 (block layouts: ggml's ggml-common.h).
"""
import json
import lzma
import os
import random
import struct
import sys

SIZE_OF_VALUE = (1, 1, 2, 2, 4, 4, 4, 1, None, None, 8, 8, 8)
F32 = 0
# type: bytes in front of the quants of a block of 32, bytes of quants. The spread of 0..15 is 4.6, that of -128..127 is 74.
BLOCKS = {2: (struct.pack("<e", 0.02 / 4.6), 16), 3: (struct.pack("<ee", 0.02 / 4.6, -7.5 * 0.02 / 4.6), 16), 8: (struct.pack("<e", 0.02 / 74), 32)}
POOL_BLOCKS = 1 << 16


class Header:
    """Of the GGUF file in `data`: where tensor data begins and (offset, type, elements) of each tensor, by offset."""

    def __init__(self, data):
        self.data, self.at = data, 4
        version, n_tensors, n_entries = self.take("IQQ")
        if data[:4] != b"GGUF" or version not in (2, 3):
            sys.exit("not a GGUF file of version 2 or 3")
        alignment = 32
        for _ in range(n_entries):
            key = self.string()
            value = self.value(*self.take("I"))
            if key == b"general.alignment":
                alignment = struct.unpack("<I", value)[0]
        self.tensors = []
        for _ in range(n_tensors):
            self.string()
            (n_dims,) = self.take("I")
            elements = 1
            for n in self.take(f"{n_dims}Q"):
                elements *= n
            kind, offset = self.take("IQ")
            if kind != F32 and kind not in BLOCKS:
                sys.exit(f"tensors of type {kind} are not known here")
            self.tensors.append((offset, kind, elements))
        self.tensors.sort()
        self.begin = (self.at + alignment - 1) // alignment * alignment
        self.alignment = alignment

    def take(self, fmt):
        values = struct.unpack_from("<" + fmt, self.data, self.at)
        self.at += struct.calcsize("<" + fmt)
        return values

    def skip(self, n):
        self.at += n
        return self.data[self.at - n:self.at]

    def string(self):
        return self.skip(*self.take("Q"))

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind != 9:
            return self.skip(SIZE_OF_VALUE[kind])
        element, count = self.take("IQ")
        if element != 8:
            return self.skip(SIZE_OF_VALUE[element] * count)
        for _ in range(count):
            self.string()
        return b""


def strip(source, target):
    with open(source, "rb") as f:
        data = f.read()
    header = Header(data)
    parts = [data[:header.begin]]
    for offset, kind, elements in header.tensors:
        if kind == F32:
            parts.append(data[header.begin + offset:][:4 * elements])
    with lzma.open(target, "wb", preset=9) as f:
        f.write(b"".join(parts))


def fill(source, target):
    with lzma.open(source) as f:
        data = f.read()
    header = Header(data)
    random_source = random.Random(1)
    pools = {}
    for kind, (scale, n_bytes) in BLOCKS.items():
        quants = random_source.randbytes(POOL_BLOCKS * n_bytes)
        pools[kind] = b"".join(scale + quants[i:i + n_bytes] for i in range(0, len(quants), n_bytes))
    at = header.begin  # of the f32 values in `data`
    with open(target, "wb") as f:
        f.write(data[:header.begin])
        for offset, kind, elements in header.tensors:
            f.write(bytes(header.begin + offset - f.tell()))
            if kind == F32:
                f.write(data[at:at + 4 * elements])
                at += 4 * elements
                continue
            block = len(BLOCKS[kind][0]) + BLOCKS[kind][1]
            left = elements // 32
            while left:
                n = min(left, POOL_BLOCKS // 2)
                begin = random_source.randrange(POOL_BLOCKS - n + 1) * block
                f.write(pools[kind][begin:begin + n * block])
                left -= n
        f.write(bytes(-f.tell() % header.alignment))


def llama_shapes(c):
    """Name and shape of each tensor."""
    hidden, head_dim = c["hidden_size"], c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    q, kv, inner = c["num_attention_heads"] * head_dim, c["num_key_value_heads"] * head_dim, c["intermediate_size"]
    layer = {"input_layernorm": [hidden], "self_attn.q_proj": [q, hidden], "self_attn.k_proj": [kv, hidden], "self_attn.v_proj": [kv, hidden],
             "self_attn.o_proj": [hidden, q], "post_attention_layernorm": [hidden], "mlp.gate_proj": [inner, hidden],
             "mlp.up_proj": [inner, hidden], "mlp.down_proj": [hidden, inner]}
    shapes = {"model.embed_tokens.weight": [c["vocab_size"], hidden]}
    for i in range(c["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = [hidden]
    if not c.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = [c["vocab_size"], hidden]
    return shapes


def folder(source, target):
    with open(source) as f:
        config = json.load(f)
    os.makedirs(target, exist_ok=True)
    with open(os.path.join(target, "config.json"), "w") as f:
        json.dump(config, f)
    pool_values = 1 << 24
    # Of a random 16 bits the sign and the mantissa are kept; the exponents give absolute values from 1/64 to 1/32.
    bits = int.from_bytes(random.Random(1).randbytes(2 * pool_values), "little")
    bits = bits & int.from_bytes(b"\x7f\x80" * pool_values, "little") | int.from_bytes(b"\x80\x3c" * pool_values, "little")
    pool = bits.to_bytes(2 * pool_values, "little")
    entries, at = {}, 0
    for name, shape in llama_shapes(config).items():
        n_bytes = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with open(os.path.join(target, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header)
        for entry in entries.values():
            begin, end = entry["data_offsets"]
            if len(entry["shape"]) == 1:
                f.write(b"\x80\x3f" * ((end - begin) // 2))  # norms: 1
                continue
            for left in range(end - begin, 0, -len(pool)):
                f.write(pool[:left])


if __name__ == "__main__":
    commands = {"strip": strip, "fill": fill, "folder": folder}
    if len(sys.argv) != 4 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
