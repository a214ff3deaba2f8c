#pragma once
#include <cstdint>

#include "kernels/common/dtype.hpp"
#include "kernels/common/floats.hpp"

/// Block layouts of ggml's quantized types, as they lie in a GGUF (facts from ggml/src/ggml-common.h and gguf-py's
/// quants.py). All are packed: a block may start at any byte of a file. Element i of a block is numbered along the row.
namespace troupe::kernels {

/// x[i] = d * (q[i] - 8). Byte j holds q[j] in its low and q[j + 16] in its high nibble; so do all Q4_x and Q5_x below.
struct [[gnu::packed]] block_q4_0 {
  static constexpr dtype type = dtype::q4_0;
  static constexpr int elements = 32;
  f16_bits d;
  std::uint8_t qs[16];
};

/// x[i] = d * q[i] + m.
struct [[gnu::packed]] block_q4_1 {
  static constexpr dtype type = dtype::q4_1;
  static constexpr int elements = 32;
  f16_bits d, m;
  std::uint8_t qs[16];
};

/// x[i] = d * (q[i] - 16); bit i of the little-endian qh is the fifth bit of q[i].
struct [[gnu::packed]] block_q5_0 {
  static constexpr dtype type = dtype::q5_0;
  static constexpr int elements = 32;
  f16_bits d;
  std::uint8_t qh[4];
  std::uint8_t qs[16];
};

/// x[i] = d * q[i] + m, fifth bits as in Q5_0.
struct [[gnu::packed]] block_q5_1 {
  static constexpr dtype type = dtype::q5_1;
  static constexpr int elements = 32;
  f16_bits d, m;
  std::uint8_t qh[4];
  std::uint8_t qs[16];
};

/// x[i] = d * q[i].
struct [[gnu::packed]] block_q8_0 {
  static constexpr dtype type = dtype::q8_0;
  static constexpr int elements = 32;
  f16_bits d;
  std::int8_t qs[32];
};

/// 16 groups of 16: x = (d * (scales[g] & 15)) * q - dmin * (scales[g] >> 4). Each half of 128 elements owns 32 bytes
/// of qs; its element j has bits 2*(j/32) and up of byte j%32.
struct [[gnu::packed]] block_q2_k {
  static constexpr dtype type = dtype::q2_k;
  static constexpr int elements = 256;
  std::uint8_t scales[16];
  std::uint8_t qs[64];
  f16_bits d, dmin;
};

/// 16 groups of 16: x = (d * (scale[g] - 32)) * (q - 4 * !h); low bits as in Q2_K, h of element i is bit i/32 of
/// hmask[i%32]. Scale g has its low four bits in nibble g/8 of scales[g%8] and its upper two in bits 2*(g/4) of
/// scales[8 + g%4].
struct [[gnu::packed]] block_q3_k {
  static constexpr dtype type = dtype::q3_k;
  static constexpr int elements = 256;
  std::uint8_t hmask[32];
  std::uint8_t qs[64];
  std::uint8_t scales[12];
  f16_bits d;
};

/// 8 groups of 32: x = (d * scale[g]) * q - dmin * min[g], six-bit scales and mins by `scale_min_k4`. Group pair p owns
/// bytes 32p to 32p+31 of qs: low nibbles are group 2p, high nibbles group 2p+1.
struct [[gnu::packed]] block_q4_k {
  static constexpr dtype type = dtype::q4_k;
  static constexpr int elements = 256;
  f16_bits d, dmin;
  std::uint8_t scales[12];
  std::uint8_t qs[128];
};

/// As Q4_K, and bit g of qh[j] is the fifth bit of element j of group g.
struct [[gnu::packed]] block_q5_k {
  static constexpr dtype type = dtype::q5_k;
  static constexpr int elements = 256;
  f16_bits d, dmin;
  std::uint8_t scales[12];
  std::uint8_t qh[32];
  std::uint8_t qs[128];
};

/// 16 groups of 16: x = (d * scales[g]) * (q - 32). Each half of 128 elements owns 64 bytes of ql and 32 of qh; its
/// element j has the low four bits in nibble j/64 of ql[j%64] and the upper two in bits 2*(j/32) of qh[j%32].
struct [[gnu::packed]] block_q6_k {
  static constexpr dtype type = dtype::q6_k;
  static constexpr int elements = 256;
  std::uint8_t ql[128];
  std::uint8_t qh[64];
  std::int8_t scales[16];
  f16_bits d;
};

/// x[i] = d * iq4_values[q[i]], nibbles as in Q4_0.
struct [[gnu::packed]] block_iq4_nl {
  static constexpr dtype type = dtype::iq4_nl;
  static constexpr int elements = 32;
  f16_bits d;
  std::uint8_t qs[16];
};

/// 8 groups of 32: x = (d * (scale[g] - 32)) * iq4_values[q]. Scale g: low four bits in nibble g%2 of scales_l[g/2],
/// upper two in bits 2g of scales_h. Group g owns 16 bytes of qs, nibbles as in Q4_0.
struct [[gnu::packed]] block_iq4_xs {
  static constexpr dtype type = dtype::iq4_xs;
  static constexpr int elements = 256;
  f16_bits d;
  std::uint16_t scales_h;
  std::uint8_t scales_l[4];
  std::uint8_t qs[128];
};

/// x[i] = e8m0_to_f32_half(e) * mxfp4_values[q[i]], nibbles as in Q4_0.
struct [[gnu::packed]] block_mxfp4 {
  static constexpr dtype type = dtype::mxfp4;
  static constexpr int elements = 32;
  std::uint8_t e;
  std::uint8_t qs[16];
};

/// The non-linear levels of IQ4_NL and IQ4_XS.
inline constexpr std::int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};
/// Twice the values of FP4 E2M1.
inline constexpr std::int8_t mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct scale_min {
  std::uint8_t scale, min;  ///< six bits each
};

/// Scale and min of group g (0-7) out of the twelve bytes of a Q4_K or Q5_K block.
TROUPE_HOST_DEVICE constexpr scale_min scale_min_k4(const std::uint8_t* scales, int g) noexcept {
  if (g < 4) return {static_cast<std::uint8_t>(scales[g] & 63), static_cast<std::uint8_t>(scales[g + 4] & 63)};
  return {static_cast<std::uint8_t>((scales[g + 4] & 15) | ((scales[g - 4] >> 6) << 4)),
          static_cast<std::uint8_t>((scales[g + 4] >> 4) | ((scales[g] >> 6) << 4))};
}

/// Scale of group g (0-15) out of the twelve bytes of a Q3_K block, centred: -32 to 31.
TROUPE_HOST_DEVICE constexpr int scale_k3(const std::uint8_t* scales, int g) noexcept {
  const int low = (scales[g % 8] >> (4 * (g / 8))) & 15;
  const int high = (scales[8 + g % 4] >> (2 * (g / 4))) & 3;
  return (low | (high << 4)) - 32;
}

namespace detail {
template <class Block>
inline constexpr bool as_in_table = sizeof(Block) == traits(Block::type).block_bytes &&
                                    Block::elements == traits(Block::type).block_elements && alignof(Block) == 1;
}
static_assert(detail::as_in_table<block_q4_0>);
static_assert(detail::as_in_table<block_q4_1>);
static_assert(detail::as_in_table<block_q5_0>);
static_assert(detail::as_in_table<block_q5_1>);
static_assert(detail::as_in_table<block_q8_0>);
static_assert(detail::as_in_table<block_q2_k>);
static_assert(detail::as_in_table<block_q3_k>);
static_assert(detail::as_in_table<block_q4_k>);
static_assert(detail::as_in_table<block_q5_k>);
static_assert(detail::as_in_table<block_q6_k>);
static_assert(detail::as_in_table<block_iq4_nl>);
static_assert(detail::as_in_table<block_iq4_xs>);
static_assert(detail::as_in_table<block_mxfp4>);

}  // namespace troupe::kernels
