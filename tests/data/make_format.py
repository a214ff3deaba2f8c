#!/usr/bin/env python3
"""Makes tests/data/format: small GGUF and safetensors files, and the values that gguf-py reads from them.

Needs gguf, numpy and safetensors. Run from anywhere; the output does not depend on time or place.
"""
import json
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as T, GGUFValueType as V, GGUFWriter, GGUFEndian
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from safetensors.numpy import save_file

out = pathlib.Path(__file__).resolve().parent / "format"
out.mkdir(exist_ok=True)
rng = np.random.default_rng(20240229)

# Where the f16 scales lie in a block: these bytes must not be left to chance, or most blocks would be huge or NaN.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: [],
}
# Ordinary scales first, then the odd ones: zeros, subnormals, the largest, infinity, NaN.
ODD = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0x7E01], dtype=np.uint16)


def random_blocks(kind, n_blocks):
    size = GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (n_blocks, size), dtype=np.uint8)
    for at in SCALES[kind]:
        d = rng.normal(0, 0.05, n_blocks).astype(np.float16).view(np.uint16)
        odd = ODD[: n_blocks * 3 // 4]
        d[n_blocks - len(odd):] = rng.permutation(odd)
        blocks[:, at:at + 2] = d.view(np.uint8).reshape(n_blocks, 2)
    if kind == T.MXFP4:
        blocks[:4, 0] = [0, 1, 2, 254]
    return blocks


def all_types():
    w = GGUFWriter(out / "all.gguf", "test")
    w.add_uint8("scalar.u8", 250)
    w.add_int8("scalar.i8", -7)
    w.add_uint16("scalar.u16", 65000)
    w.add_int16("scalar.i16", -32000)
    w.add_uint32("scalar.u32", 4000000000)
    w.add_int32("scalar.i32", -2000000000)
    w.add_float32("scalar.f32", 0.1)
    w.add_uint64("scalar.u64", 2**64 - 1)
    w.add_int64("scalar.i64", -(2**63))
    w.add_float64("scalar.f64", 0.1)
    w.add_bool("scalar.true", True)
    w.add_bool("scalar.false", False)
    w.add_string("scalar.string", "Grüße, мир, 世界")
    w.add_key_value("scalar.empty", "", V.STRING)
    for name, sub, values in [
        ("u8", V.UINT8, [0, 1, 255]), ("i8", V.INT8, [-128, 0, 127]), ("u16", V.UINT16, [0, 65535]),
        ("i16", V.INT16, [-32768, 32767]), ("u32", V.UINT32, [0, 7, 4294967295]), ("i32", V.INT32, [-2147483648, 5, 2147483647]),
        ("u64", V.UINT64, [0, 2**64 - 1]), ("i64", V.INT64, [-(2**63), 2**63 - 1]), ("f32", V.FLOAT32, [0.1, -1.5, 3e38]),
        ("f64", V.FLOAT64, [0.1, 1e300]), ("bool", V.BOOL, [True, False, True]),
        ("string", V.STRING, ["", "a", "Ġthe", "<|end|>", "\x00\x01"]),
    ]:
        w.add_key_value("array." + name, values, V.ARRAY, sub_type=sub)

    expected = {}
    for kind in [T.F32, T.F16, T.BF16]:
        if kind == T.F32:
            x = np.array([[0, -0.0, 1.5], [1e-45, np.inf, -3e38]], dtype=np.float32)
            raw = x.view(np.uint8)
        elif kind == T.F16:
            x = np.arange(0, 65536, 97, dtype=np.uint16).reshape(4, 169).view(np.float16)
            raw = x.view(np.uint8)
        else:
            raw = np.arange(0, 65536, 97, dtype=np.uint16).reshape(4, 169).view(np.uint8)
        name = kind.name.lower()
        expected[name] = np.ascontiguousarray(dequantize(raw, kind), dtype=np.float32)
        w.add_tensor(name, raw, raw_dtype=kind)
    for kind in SCALES:
        per_row, rows = (2, 10) if GGML_QUANT_SIZES[kind][0] == 32 else (1, 12)
        raw = random_blocks(kind, per_row * rows).reshape(rows, -1)
        name = kind.name.lower()
        with np.errstate(all="ignore"):
            expected[name] = np.ascontiguousarray(dequantize(raw, kind), dtype=np.float32)
        w.add_tensor(name, raw, raw_dtype=kind)
    for kind, np_type in [(T.I8, np.int8), (T.I16, np.int16), (T.I32, np.int32), (T.I64, np.int64), (T.F64, np.float64)]:
        w.add_tensor(kind.name.lower(), np.arange(-3, 3, dtype=np_type).reshape(1, 2, 3))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    save_file(expected, out / "all_f32.safetensors")


def tiny(path, **kw):
    w = GGUFWriter(path, "test", **kw)
    w.add_uint32("test.layers", 3)
    w.add_key_value("test.tokens", ["a", "bc"], V.ARRAY, sub_type=V.STRING)
    for i in range(3):
        w.add_tensor(f"blk.{i}.weight", np.full((2, 4), i + 1, dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def aligned():
    w = GGUFWriter(out / "aligned.gguf", "test")
    w.add_custom_alignment(128)
    w.add_tensor("a", np.ones(3, dtype=np.float32))
    w.add_tensor("b", np.full(5, 2, dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def raw_safetensors(path, tensors, metadata=None):
    """tensors: [(name, dtype name, array)]; written by hand, since numpy knows neither bf16 nor f8."""
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, kind, array in tensors:
        blob = array.tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header, ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def two_shards():
    folder = out / "sharded"
    folder.mkdir(exist_ok=True)
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    a = np.arange(8, dtype=np.float32).reshape(2, 4)
    save_file({"first.weight": a, "both": a}, folder / names[0], metadata={"format": "pt"})
    save_file({"second.weight": a + 100, "both": a + 1000, "unlisted": a}, folder / names[1], metadata={"format": "pt"})
    index = {"metadata": {"total_size": 96}, "weight_map": {"first.weight": names[0], "second.weight": names[1], "both": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


all_types()
tiny(out / "tiny.gguf")
tiny(out / "big_endian.gguf", endianess=GGUFEndian.BIG)
tiny(out / "split.gguf", split_max_tensors=1)
aligned()
every = [
    ("bf16", "BF16", np.array([[0x3F80, 0xC000, 0x4060]], dtype=np.uint16)), ("f16", "F16", np.array([0.5, -0.25], dtype=np.float16)),
    ("f32", "F32", np.arange(6, dtype=np.float32).reshape(2, 3)), ("f64", "F64", np.array([0.1])),
    ("i8", "I8", np.array([-1], dtype=np.int8)), ("i16", "I16", np.array([-2], dtype=np.int16)),
    ("i32", "I32", np.array([-3], dtype=np.int32)), ("i64", "I64", np.array([-4], dtype=np.int64)),
    ("u8", "U8", np.array([5], dtype=np.uint8)), ("u16", "U16", np.array([6], dtype=np.uint16)),
    ("u32", "U32", np.array([7], dtype=np.uint32)), ("u64", "U64", np.array([8], dtype=np.uint64)), ("bool", "BOOL", np.array([True])),
    ("f8", "F8_E4M3", np.array([0x38, 0xB8], dtype=np.uint8)), ("scalar", "F32", np.array(9, dtype=np.float32)),
    ("empty", "F32", np.zeros((0, 4), dtype=np.float32)), ('Grüße "\\', "F32", np.array([1], dtype=np.float32)),
]
raw_safetensors(out / "every.safetensors", every, {"format": "pt", "note": "ä\n"})
two_shards()
