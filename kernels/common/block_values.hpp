#pragma once
#include "kernels/common/blocks.hpp"

/// Element i of a block as f32, for host and device: the formulas and the order of operations of
/// src/format/dequantize.cpp, which writes whole blocks. For those who want single elements, as a lookup of embeddings
/// on a card does. No product and sum may be contracted to a fused one here.
namespace troupe::kernels {

namespace detail {

#if defined(__CUDA_ARCH__)
__device__ inline float unfused(float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); }
#else
TROUPE_HOST_DEVICE constexpr float unfused(float a, float b, float c) { return a * b + c; }
#endif

/// A table of 16 bytes as two words, since device code cannot index a host's array.
struct byte_table {
  std::uint64_t low, high;
  constexpr explicit byte_table(const std::int8_t (&values)[16]) : low(0), high(0) {
    for (int i = 0; i < 8; ++i) {
      low |= std::uint64_t{static_cast<std::uint8_t>(values[i])} << (8 * i);
      high |= std::uint64_t{static_cast<std::uint8_t>(values[i + 8])} << (8 * i);
    }
  }
};
TROUPE_HOST_DEVICE constexpr float entry(std::uint64_t low, std::uint64_t high, int q) {
  return static_cast<float>(static_cast<std::int8_t>(((q & 8) != 0 ? high : low) >> (8 * (q & 7))));
}
TROUPE_HOST_DEVICE constexpr float iq4_value(int q) {
  constexpr byte_table t(iq4_values);
  return entry(t.low, t.high, q);
}
TROUPE_HOST_DEVICE constexpr float mxfp4_value(int q) {
  constexpr byte_table t(mxfp4_values);
  return entry(t.low, t.high, q);
}

/// Code i of the sixteen bytes of a block of 32.
TROUPE_HOST_DEVICE constexpr int nibble(const std::uint8_t* qs, int i) { return (qs[i % 16] >> (4 * (i / 16))) & 15; }
TROUPE_HOST_DEVICE constexpr int bit_of(const std::uint8_t* bits, int i) { return (bits[i / 8] >> (i % 8)) & 1; }

}  // namespace detail

TROUPE_HOST_DEVICE constexpr float value(const block_q4_0& b, int i) {
  return f16_to_f32(b.d) * static_cast<float>(detail::nibble(b.qs, i) - 8);
}
TROUPE_HOST_DEVICE inline float value(const block_q4_1& b, int i) {
  return detail::unfused(f16_to_f32(b.d), static_cast<float>(detail::nibble(b.qs, i)), f16_to_f32(b.m));
}
TROUPE_HOST_DEVICE constexpr float value(const block_q5_0& b, int i) {
  return f16_to_f32(b.d) * static_cast<float>((detail::nibble(b.qs, i) | (detail::bit_of(b.qh, i) << 4)) - 16);
}
TROUPE_HOST_DEVICE inline float value(const block_q5_1& b, int i) {
  const int q = detail::nibble(b.qs, i) | (detail::bit_of(b.qh, i) << 4);
  return detail::unfused(f16_to_f32(b.d), static_cast<float>(q), f16_to_f32(b.m));
}
TROUPE_HOST_DEVICE constexpr float value(const block_q8_0& b, int i) {
  return f16_to_f32(b.d) * static_cast<float>(b.qs[i]);
}
TROUPE_HOST_DEVICE inline float value(const block_q2_k& b, int i) {
  const float scale = f16_to_f32(b.d) * static_cast<float>(b.scales[i / 16] & 15);
  const float min = f16_to_f32(b.dmin) * static_cast<float>(b.scales[i / 16] >> 4);
  const int q = (b.qs[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3;
  return detail::unfused(scale, static_cast<float>(q), -min);
}
TROUPE_HOST_DEVICE constexpr float value(const block_q3_k& b, int i) {
  const float scale = f16_to_f32(b.d) * static_cast<float>(scale_k3(b.scales, i / 16));
  const int low = (b.qs[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32))) & 3;
  const int high = (b.hmask[i % 32] >> (i / 32)) & 1;
  return scale * static_cast<float>(low - (high == 0 ? 4 : 0));
}
TROUPE_HOST_DEVICE inline float value(const block_q4_k& b, int i) {
  const int group = i / 32, j = i % 32;
  const scale_min sm = scale_min_k4(b.scales, group);
  const float scale = f16_to_f32(b.d) * static_cast<float>(sm.scale);
  const float min = f16_to_f32(b.dmin) * static_cast<float>(sm.min);
  const int q = (b.qs[32 * (group / 2) + j] >> (4 * (group % 2))) & 15;
  return detail::unfused(scale, static_cast<float>(q), -min);
}
TROUPE_HOST_DEVICE inline float value(const block_q5_k& b, int i) {
  const int group = i / 32, j = i % 32;
  const scale_min sm = scale_min_k4(b.scales, group);
  const float scale = f16_to_f32(b.d) * static_cast<float>(sm.scale);
  const float min = f16_to_f32(b.dmin) * static_cast<float>(sm.min);
  const int low = (b.qs[32 * (group / 2) + j] >> (4 * (group % 2))) & 15;
  const int high = (b.qh[j] >> group) & 1;
  return detail::unfused(scale, static_cast<float>(low | (high << 4)), -min);
}
TROUPE_HOST_DEVICE constexpr float value(const block_q6_k& b, int i) {
  const int half = i / 128, j = i % 128;
  const float scale = f16_to_f32(b.d) * static_cast<float>(b.scales[i / 16]);
  const int low = (b.ql[64 * half + j % 64] >> (4 * (j / 64))) & 15;
  const int high = (b.qh[32 * half + j % 32] >> (2 * (j / 32))) & 3;
  return scale * static_cast<float>((low | (high << 4)) - 32);
}
TROUPE_HOST_DEVICE constexpr float value(const block_iq4_nl& b, int i) {
  return f16_to_f32(b.d) * detail::iq4_value(detail::nibble(b.qs, i));
}
TROUPE_HOST_DEVICE constexpr float value(const block_iq4_xs& b, int i) {
  const int group = i / 32;
  const int low = (b.scales_l[group / 2] >> (4 * (group % 2))) & 15;
  const int high = (b.scales_h >> (2 * group)) & 3;
  const float scale = f16_to_f32(b.d) * static_cast<float>((low | (high << 4)) - 32);
  return scale * detail::iq4_value(detail::nibble(b.qs + 16 * group, i % 32));
}
TROUPE_HOST_DEVICE constexpr float value(const block_mxfp4& b, int i) {
  return e8m0_to_f32_half(b.e) * detail::mxfp4_value(detail::nibble(b.qs, i));
}

/// f(Block{}) for the block type of a quantized dtype; `otherwise` for those that are none or not readable.
template <class Result, class F>
Result with_block(dtype type, Result otherwise, F&& f) {
  switch (type) {
    case dtype::q4_0:
      return f(block_q4_0{});
    case dtype::q4_1:
      return f(block_q4_1{});
    case dtype::q5_0:
      return f(block_q5_0{});
    case dtype::q5_1:
      return f(block_q5_1{});
    case dtype::q8_0:
      return f(block_q8_0{});
    case dtype::q2_k:
      return f(block_q2_k{});
    case dtype::q3_k:
      return f(block_q3_k{});
    case dtype::q4_k:
      return f(block_q4_k{});
    case dtype::q5_k:
      return f(block_q5_k{});
    case dtype::q6_k:
      return f(block_q6_k{});
    case dtype::iq4_nl:
      return f(block_iq4_nl{});
    case dtype::iq4_xs:
      return f(block_iq4_xs{});
    case dtype::mxfp4:
      return f(block_mxfp4{});
    default:
      return otherwise;
  }
}

}  // namespace troupe::kernels
