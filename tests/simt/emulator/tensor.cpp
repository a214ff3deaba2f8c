#include "simt/tensor.hpp"

#include <cstring>

namespace simt {
namespace {

/// Exact, in a few operations that vectorize; subnormals come right by the multiplication.
[[gnu::always_inline]] inline float from_f16(std::uint16_t h) {
  const std::uint32_t digits = static_cast<std::uint32_t>(h & 0x7fff) << 13;
  const std::uint32_t finite = __builtin_bit_cast(std::uint32_t, __builtin_bit_cast(float, digits) * 0x1p112f);
  const std::uint32_t size = (h & 0x7c00) == 0x7c00 ? digits | 0x7f800000u : finite;
  return __builtin_bit_cast(float, size | static_cast<std::uint32_t>(h & 0x8000) << 16);
}
[[gnu::always_inline]] inline float from_bf16(std::uint16_t b) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(b) << 16);
}

void put_pair(std::uint16_t* low, std::uint16_t* high, std::uint32_t pair) {
  *low = static_cast<std::uint16_t>(pair);
  *high = static_cast<std::uint16_t>(pair >> 16);
}

template <float (*From)(std::uint16_t)>
[[gnu::always_inline]] inline void multiply_as(std::uint32_t lanes, lane_part (&parts)[32]) {
  if (lanes != 0xffffffffu) fault("mma without all lanes of the warp");
  std::uint16_t a_bits[16][16], b_bits[16][8];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const auto& f = *static_cast<const fragments*>(parts[lane].in);
    const unsigned g = lane / 4, k = lane % 4 * 2;
    for (unsigned i = 0; i < 4; ++i) {
      std::uint16_t* at = &a_bits[g + i % 2 * 8][k + i / 2 * 8];
      put_pair(at, at + 1, f.a[i]);
    }
    for (unsigned i = 0; i < 2; ++i) put_pair(&b_bits[k + 8 * i][g], &b_bits[k + 8 * i + 1][g], f.b[i]);
  }
  float a[16][16], b[16][8];
  for (unsigned i = 0; i < 256; ++i) a[i / 16][i % 16] = From(a_bits[i / 16][i % 16]);
  for (unsigned i = 0; i < 128; ++i) b[i / 8][i % 8] = From(b_bits[i / 8][i % 8]);
  float c[16][8] = {};
  for (unsigned i = 0; i < 16; ++i)
    for (unsigned k = 0; k < 16; ++k)
      for (unsigned j = 0; j < 8; ++j) c[i][j] += a[i][k] * b[k][j];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const auto& f = *static_cast<const fragments*>(parts[lane].in);
    auto* const out = static_cast<float*>(parts[lane].out);
    for (unsigned i = 0; i < 4; ++i) out[i] = f.c[i] + c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

}  // namespace

// Most of the time of an emulated product goes by here.
[[gnu::target_clones("avx2", "default")]] void multiply_f16(std::uint32_t lanes, lane_part (&parts)[32]) {
  multiply_as<from_f16>(lanes, parts);
}
[[gnu::target_clones("avx2", "default")]] void multiply_bf16(std::uint32_t lanes, lane_part (&parts)[32]) {
  multiply_as<from_bf16>(lanes, parts);
}

template <int Matrices, bool Transposed>
void load_matrices(std::uint32_t lanes, lane_part (&parts)[32]) {
  if (lanes != 0xffffffffu) fault("ldmatrix without all lanes of the warp");
  for (unsigned i = 0; i < Matrices; ++i) {
    std::uint16_t m[8][8];
    for (unsigned row = 0; row < 8; ++row)
      std::memcpy(m[row], shared_memory_at(*static_cast<const std::uint32_t*>(parts[8 * i + row].in), 16, 16), 16);
    for (unsigned lane = 0; lane < 32; ++lane) {
      const unsigned g = lane / 4, t2 = lane % 4 * 2;
      const std::uint32_t low = Transposed ? m[t2][g] : m[g][t2], high = Transposed ? m[t2 + 1][g] : m[g][t2 + 1];
      static_cast<std::uint32_t*>(parts[lane].out)[i] = low | high << 16;
    }
  }
}
template void load_matrices<4, false>(std::uint32_t, lane_part (&)[32]);
template void load_matrices<4, true>(std::uint32_t, lane_part (&)[32]);
template void load_matrices<2, true>(std::uint32_t, lane_part (&)[32]);

}  // namespace simt
