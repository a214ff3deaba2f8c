#include "src/format/dequantize.hpp"

#include <cstring>

#include "kernels/common/blocks.hpp"
#include "kernels/common/floats.hpp"
#include "src/format/quote.hpp"

namespace troupe::format {
namespace {

using namespace kernels;

// Formulas and bit orders: gguf-py's quants.py, evaluated in f32 in the same order of operations (this is why d * scale
// is computed before it meets q). One overload per layout writes one block.

template <class Block, class Value>
void nibbles(const Block& b, float* y, Value value) {
  for (int j = 0; j < 16; ++j) {
    y[j] = value(j, b.qs[j] & 15);
    y[j + 16] = value(j + 16, b.qs[j] >> 4);
  }
}

void unpack(const block_q4_0& b, float* y) {
  const float d = f16_to_f32(b.d);
  nibbles(b, y, [d](int, int q) { return d * static_cast<float>(q - 8); });
}

void unpack(const block_q4_1& b, float* y) {
  const float d = f16_to_f32(b.d), m = f16_to_f32(b.m);
  nibbles(b, y, [d, m](int, int q) { return d * static_cast<float>(q) + m; });
}

int fifth_bit(const std::uint8_t* qh, int i) { return ((qh[i / 8] >> (i % 8)) & 1) << 4; }

void unpack(const block_q5_0& b, float* y) {
  const float d = f16_to_f32(b.d);
  nibbles(b, y, [&](int i, int q) { return d * static_cast<float>((q | fifth_bit(b.qh, i)) - 16); });
}

void unpack(const block_q5_1& b, float* y) {
  const float d = f16_to_f32(b.d), m = f16_to_f32(b.m);
  nibbles(b, y, [&](int i, int q) { return d * static_cast<float>(q | fifth_bit(b.qh, i)) + m; });
}

void unpack(const block_q8_0& b, float* y) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>(b.qs[i]);
}

void unpack(const block_q2_k& b, float* y) {
  const float d = f16_to_f32(b.d), dmin = f16_to_f32(b.dmin);
  for (int i = 0; i < 256; ++i) {
    const int group = i / 16, half = i / 128, j = i % 128;
    const float scale = d * static_cast<float>(b.scales[group] & 15);
    const float min = dmin * static_cast<float>(b.scales[group] >> 4);
    const int q = (b.qs[32 * half + j % 32] >> (2 * (j / 32))) & 3;
    y[i] = scale * static_cast<float>(q) - min;
  }
}

void unpack(const block_q3_k& b, float* y) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, j = i % 128;
    const float scale = d * static_cast<float>(scale_k3(b.scales, i / 16));
    const int low = (b.qs[32 * half + j % 32] >> (2 * (j / 32))) & 3;
    const int high = (b.hmask[i % 32] >> (i / 32)) & 1;
    y[i] = scale * static_cast<float>(low - (high == 0 ? 4 : 0));
  }
}

void unpack(const block_q4_k& b, float* y) {
  const float d = f16_to_f32(b.d), dmin = f16_to_f32(b.dmin);
  for (int group = 0; group < 8; ++group) {
    const scale_min sm = scale_min_k4(b.scales, group);
    const float scale = d * static_cast<float>(sm.scale), min = dmin * static_cast<float>(sm.min);
    for (int j = 0; j < 32; ++j) {
      const int q = (b.qs[32 * (group / 2) + j] >> (4 * (group % 2))) & 15;
      y[32 * group + j] = scale * static_cast<float>(q) - min;
    }
  }
}

void unpack(const block_q5_k& b, float* y) {
  const float d = f16_to_f32(b.d), dmin = f16_to_f32(b.dmin);
  for (int group = 0; group < 8; ++group) {
    const scale_min sm = scale_min_k4(b.scales, group);
    const float scale = d * static_cast<float>(sm.scale), min = dmin * static_cast<float>(sm.min);
    for (int j = 0; j < 32; ++j) {
      const int low = (b.qs[32 * (group / 2) + j] >> (4 * (group % 2))) & 15;
      const int high = (b.qh[j] >> group) & 1;
      y[32 * group + j] = scale * static_cast<float>(low | (high << 4)) - min;
    }
  }
}

void unpack(const block_q6_k& b, float* y) {
  const float d = f16_to_f32(b.d);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, j = i % 128;
    const float scale = d * static_cast<float>(b.scales[i / 16]);
    const int low = (b.ql[64 * half + j % 64] >> (4 * (j / 64))) & 15;
    const int high = (b.qh[32 * half + j % 32] >> (2 * (j / 32))) & 3;
    y[i] = scale * static_cast<float>((low | (high << 4)) - 32);
  }
}

void unpack(const block_iq4_nl& b, float* y) {
  const float d = f16_to_f32(b.d);
  nibbles(b, y, [d](int, int q) { return d * static_cast<float>(iq4_values[q]); });
}

void unpack(const block_iq4_xs& b, float* y) {
  const float d = f16_to_f32(b.d);
  for (int group = 0; group < 8; ++group) {
    const int low = (b.scales_l[group / 2] >> (4 * (group % 2))) & 15;
    const int high = (b.scales_h >> (2 * group)) & 3;
    const float scale = d * static_cast<float>((low | (high << 4)) - 32);
    for (int j = 0; j < 16; ++j) {
      const std::uint8_t two = b.qs[16 * group + j];
      y[32 * group + j] = scale * static_cast<float>(iq4_values[two & 15]);
      y[32 * group + j + 16] = scale * static_cast<float>(iq4_values[two >> 4]);
    }
  }
}

void unpack(const block_mxfp4& b, float* y) {
  const float d = e8m0_to_f32_half(b.e);
  nibbles(b, y, [d](int, int q) { return d * static_cast<float>(mxfp4_values[q]); });
}

template <class Block>
void unpack_all(const std::byte* src, float* dst, std::size_t n) {
  for (std::size_t i = 0; i < n / Block::elements; ++i) {
    Block block;
    std::memcpy(&block, src + i * sizeof(Block), sizeof(Block));
    unpack(block, dst + i * Block::elements);
  }
}

template <float (*Convert)(std::uint16_t) noexcept>
void convert_all(const std::byte* src, float* dst, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, src + 2 * i, 2);
    dst[i] = Convert(bits);
  }
}

}  // namespace

void dequantize(dtype type, const std::byte* src, float* dst, std::size_t n) noexcept {
  if (n == 0) return;
  switch (type) {
    case dtype::f32:
      std::memcpy(dst, src, n * sizeof(float));
      break;
    case dtype::f16:
      convert_all<f16_to_f32>(src, dst, n);
      break;
    case dtype::bf16:
      convert_all<bf16_to_f32>(src, dst, n);
      break;
    case dtype::q4_0:
      unpack_all<block_q4_0>(src, dst, n);
      break;
    case dtype::q4_1:
      unpack_all<block_q4_1>(src, dst, n);
      break;
    case dtype::q5_0:
      unpack_all<block_q5_0>(src, dst, n);
      break;
    case dtype::q5_1:
      unpack_all<block_q5_1>(src, dst, n);
      break;
    case dtype::q8_0:
      unpack_all<block_q8_0>(src, dst, n);
      break;
    case dtype::q2_k:
      unpack_all<block_q2_k>(src, dst, n);
      break;
    case dtype::q3_k:
      unpack_all<block_q3_k>(src, dst, n);
      break;
    case dtype::q4_k:
      unpack_all<block_q4_k>(src, dst, n);
      break;
    case dtype::q5_k:
      unpack_all<block_q5_k>(src, dst, n);
      break;
    case dtype::q6_k:
      unpack_all<block_q6_k>(src, dst, n);
      break;
    case dtype::iq4_nl:
      unpack_all<block_iq4_nl>(src, dst, n);
      break;
    case dtype::iq4_xs:
      unpack_all<block_iq4_xs>(src, dst, n);
      break;
    case dtype::mxfp4:
      unpack_all<block_mxfp4>(src, dst, n);
      break;
    case dtype::f8_e4m3:
      for (std::size_t i = 0; i < n; ++i) dst[i] = e4m3_to_f32(std::to_integer<std::uint8_t>(src[i]));
      break;
    default:
      break;  // excluded by the precondition
  }
}

result<void> dequantize_rows(const tensor_view& t, std::uint64_t first, std::uint64_t n_rows, std::span<float> dst) {
  if (!can_dequantize(t.type)) {
    return failure{errc::unsupported, "tensor " + quoted(t.name) + " has type " + std::string(kernels::name(t.type)) +
                                          ", which Troupe cannot convert to f32: use a file with another quantization"};
  }
  const std::uint64_t row = t.shape.row();
  const std::uint64_t total = row == 0 ? 0 : t.shape.elements() / row;
  const auto row_bytes = bytes_of(t.type, row);
  if (!row_bytes || first > total || n_rows > total - first || dst.size() != n_rows * row ||
      t.data.size() != total * *row_bytes) {
    return failure{errc::invalid_argument, "rows " + std::to_string(first) + " to " + std::to_string(first + n_rows) +
                                               " of tensor " + quoted(t.name) + " " + to_string(t.shape) +
                                               " do not exist or do not fit the destination"};
  }
  dequantize(t.type, t.data.data() + first * *row_bytes, dst.data(), static_cast<std::size_t>(n_rows * row));
  if (t.scale != 1.0f)
    for (float& x : dst) x *= t.scale;
  return {};
}

result<void> dequantize(const tensor_view& t, std::span<float> dst) {
  const std::uint64_t row = t.shape.row();
  return dequantize_rows(t, 0, row == 0 ? 0 : t.shape.elements() / row, dst);
}

}  // namespace troupe::format
