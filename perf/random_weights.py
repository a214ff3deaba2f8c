#!/usr/bin/env python3
"""A GGUF model without its matrices, to carry where the whole file is too much, and one of its shape with random matrices made of it.

    perf/random_weights.py strip MODEL.gguf SHAPE.xz     # metadata, vocabulary and f32 tensors (norms): 1 MB for SmolLM2
    perf/random_weights.py fill  SHAPE.xz RANDOM.gguf    # as many bytes as MODEL.gguf, the same ones each time

Speed does not depend on the weights' values: quants are uniform, scales such that values spread by 0.02 around 0, as in a model
that was not trained yet. The text that comes out is noise. Types: f32, q4_0, q4_1, q8_0 (block layouts: ggml's ggml-common.h).
"""
import lzma
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


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("strip", "fill"):
        sys.exit(__doc__)
    (strip if sys.argv[1] == "strip" else fill)(*sys.argv[2:])
