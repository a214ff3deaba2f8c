#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/gpu/ptx.cuh"

/// mma.sync m16n8k16 and what feeds it: ldmatrix from swizzled shared memory, packing, e4m3 to 16 bits.
///
/// Fragments as in the PTX manual, with g = lane / 4 and t = lane % 4:
///   A (16 x 16)  a0 row g, columns 2t 2t+1; a1 row g + 8; a2 row g, columns 2t+8 2t+9; a3 row g + 8, the same
///   B (16 x 8)   b0 rows 2t 2t+1 of column g; b1 rows 2t+8 2t+9
///   C (16 x 8)   c0 c1 row g, columns 2t 2t+1; c2 c3 row g + 8
namespace troupe::kernels::gpu {

/// c += a b, f32 sums.
template <class T>
__device__ void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
template <>
__device__ inline void mma<__half>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  ptx::mma_f16(c, a, b0, b1);
}
template <>
__device__ inline void mma<__nv_bfloat16>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                          std::uint32_t b1) {
  ptx::mma_bf16(c, a, b0, b1);
}

/// Four 8 x 8 matrices of 16-bit elements; lanes 8 i .. 8 i + 7 give the addresses of the rows of matrix i (16 bytes,
/// aligned). r[i] holds row g, elements 2t 2t+1 of matrix i; transposed: rows 2t 2t+1 of column g.
__device__ inline void load_matrices(std::uint32_t (&r)[4], std::uint32_t address) { ptx::ldmatrix_x4(r, address); }
__device__ inline void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  ptx::ldmatrix_x4_trans(r, address);
}
/// Two of them; lanes 0..15 give the addresses.
__device__ inline void load_matrices_transposed(std::uint32_t (&r)[2], std::uint32_t address) {
  ptx::ldmatrix_x2_trans(r, address);
}

/// Where 16-byte chunk `chunk` of row `row` lies (in bytes) in a tile whose rows have Chunks chunks and no padding, so
/// that the eight rows of a matrix fall into different banks: rows are Chunks * 16 bytes apart, hence the more of
/// Chunks' factors of two divide 8, the more rows share banks and the more bits must be mixed in.
template <int Chunks>
__device__ inline std::uint32_t swizzle_bits(std::uint32_t row) {
  static_assert(Chunks % 2 == 0);
  return Chunks % 8 == 0 ? row % 8 : Chunks % 4 == 0 ? row / 2 % 4 : row / 4 % 2;
}
template <int Chunks>
__device__ inline std::uint32_t swizzled(std::uint32_t row, std::uint32_t chunk) {
  return (row * Chunks + (chunk ^ swizzle_bits<Chunks>(row))) * 16;
}

/// The same for one lane whose row (up to multiples of 8) and lowest bit of the chunk (`odd`) are fixed, while the rest
/// is known when compiled: a handful of registers instead of one for each place.
template <int Chunks>
class swizzled_lane {
  static constexpr int period = Chunks % 8 == 0 ? 8 : Chunks % 4 == 0 ? 4 : 2;

 public:
  __device__ swizzled_lane(std::uint32_t base, std::uint32_t row, std::uint32_t odd)
      : start_(base + row * (Chunks * 16)), mix_((odd ^ swizzle_bits<Chunks>(row)) * 16) {}
  /// Address of chunk `chunk` (even, or any if `odd` is 0) | odd of row + 8 * eights.
  __device__ std::uint32_t at(int eights, int chunk) const {
    return start_ + (static_cast<std::uint32_t>(chunk % period * 16) ^ mix_) +
           (eights * 8 * Chunks + chunk / period * period) * 16;
  }

 private:
  std::uint32_t start_, mix_;
};

/// Two f32 rounded to T, the first in the low half.
template <class T>
__device__ std::uint32_t pack(float low, float high);
template <>
__device__ inline std::uint32_t pack<__half>(float low, float high) {
  const __half2 v = __floats2half2_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(v);
}
template <>
__device__ inline std::uint32_t pack<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(v);
}

/// The two e4m3 codes in the low 16 bits as T; exact.
template <class T>
__device__ std::uint32_t from_e4m3(std::uint32_t codes);
template <>
__device__ inline std::uint32_t from_e4m3<__half>(std::uint32_t codes) {
  const __half2_raw v = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes), __NV_E4M3);
  return v.x | static_cast<std::uint32_t>(v.y) << 16;
}
template <>
__device__ inline std::uint32_t from_e4m3<__nv_bfloat16>(std::uint32_t codes) {
  const __half2 v = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes), __NV_E4M3);
  const float2 f = __half22float2(v);
  return pack<__nv_bfloat16>(f.x, f.y);
}

/// 2^x and 1 / x as the hardware has them: about 2 ulp, subnormal results become 0.
__device__ inline float exp2_approximate(float x) { return ptx::ex2_approx_ftz(x); }
__device__ inline float reciprocal_approximate(float x) { return ptx::rcp_approx_ftz(x); }

}  // namespace troupe::kernels::gpu
