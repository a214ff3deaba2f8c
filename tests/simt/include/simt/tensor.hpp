#pragma once
#include "simt/block.hpp"

/// The warp's matrix instructions. Fragments lie as the PTX manual says ("Matrix fragments for mma.m16n8k16",
/// ldmatrix).
namespace simt {

/// A lane's fragments of m16n8k16.
struct fragments {
  std::uint32_t a[4], b[2];
  float c[4];
};
/// Outputs: float[4]. Products are exact, sums of f32 in ascending order of k, then c is added.
void multiply_f16(std::uint32_t lanes, lane_part (&)[32]);
void multiply_bf16(std::uint32_t lanes, lane_part (&)[32]);

inline void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                     warp_operation operation) {
  const fragments mine{{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
  meet_warp("mma", 0xffffffffu, operation, &mine, c);
}

/// ldmatrix: inputs are addresses of rows, outputs Matrices words.
template <int Matrices, bool Transposed>
void load_matrices(std::uint32_t lanes, lane_part (&)[32]);

}  // namespace simt
