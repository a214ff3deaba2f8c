#pragma once
#include "kernels/gpu/async_copy.cuh"
#include "kernels/gpu/fragments.cuh"

/// Tensor core products over 16-byte pieces.
///
/// A lane with g = lane / 4 and t = lane % 4 holds columns 8 t .. 8 t + 7 of row g of a block of 32 columns: one
/// 16-byte load per 8 rows. Two m16n8k16 products use such pieces up, elements 0..3 in the first (its k positions 2t,
/// 2t+1, 2t+8, 2t+9) and 4..7 in the second. Weights and tokens are permuted alike, so the sums are those of the plain
/// order; but every kernel that promises equal bits has to use this one.
namespace troupe::kernels::gpu {

/// c += W X^T for 16 weight rows (`low`: rows 0..7, `high`: 8..15), 8 tokens, 32 columns. c[0], c[1]: row g, tokens 2t
/// and 2t + 1; c[2], c[3]: row g + 8.
template <class T>
__device__ void multiply_block(float (&c)[4], const uint4& low, const uint4& high, const uint4& tokens) {
  mma<T>(c, {low.x, high.x, low.y, high.y}, tokens.x, tokens.y);
  mma<T>(c, {low.z, high.z, low.w, high.w}, tokens.z, tokens.w);
}

}  // namespace troupe::kernels::gpu
