#!/usr/bin/env python3
"""make_experts.py: tests/data/model/mixtral/model-Q8_0.gguf out of its model-bf16.gguf: experts in Q8_0 and Q4_0 by turns, the head in
Q8_0, the rest as it was. There is no reference for it but the plain path over the same weights. Needs the packages numpy and gguf."""
import pathlib
import struct

import gguf
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent / "model" / "mixtral"
ALIGNMENT = 32


def wanted(t):
    if t.name == "output.weight" or "ffn_gate_exps" in t.name:
        return gguf.GGMLQuantizationType.Q8_0
    if "ffn_up_exps" in t.name or "ffn_down_exps" in t.name:
        return gguf.GGMLQuantizationType.Q4_0
    return t.tensor_type


def main():
    source = gguf.GGUFReader(HERE / "model-bf16.gguf")
    infos, data = b"", b""
    for t in source.tensors:
        kind = wanted(t)
        raw = t.data.tobytes()
        if kind != t.tensor_type:
            raw = gguf.quants.quantize(gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32), kind).tobytes()
        data += b"\0" * (-len(data) % ALIGNMENT)
        name = t.name.encode()
        infos += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(t.shape))
        infos += b"".join(struct.pack("<Q", int(d)) for d in t.shape) + struct.pack("<IQ", int(kind), len(data))
        data += raw
    head = (HERE / "model-bf16.gguf").read_bytes()[:source.tensors[0].field.offset] + infos
    (HERE / "model-Q8_0.gguf").write_bytes(head + b"\0" * (-len(head) % ALIGNMENT) + data)


if __name__ == "__main__":
    main()
