#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/common/dtype.hpp"

/// Elements of the compute type in device code.
namespace troupe::kernels::gpu {

template <class T>
struct element;

template <>
struct element<float> {
  static constexpr dtype type = dtype::f32;
  __device__ static float get(float x) { return x; }
  __device__ static float put(float x) { return x; }
};
template <>
struct element<__half> {
  static constexpr dtype type = dtype::f16;
  __device__ static float get(__half x) { return __half2float(x); }
  __device__ static __half put(float x) { return __float2half_rn(x); }
};
template <>
struct element<__nv_bfloat16> {
  static constexpr dtype type = dtype::bf16;
  __device__ static float get(__nv_bfloat16 x) { return __bfloat162float(x); }
  __device__ static __nv_bfloat16 put(float x) { return __float2bfloat16_rn(x); }
};

/// f(T{}) for the element type of f16 and bf16; cudaErrorInvalidValue for others.
template <class F>
cudaError_t with_16_bits(dtype type, F&& f) {
  switch (type) {
    case dtype::f16:
      return f(__half{});
    case dtype::bf16:
      return f(__nv_bfloat16{});
    default:
      return cudaErrorInvalidValue;
  }
}

/// The same with f32.
template <class F>
cudaError_t with_element(dtype type, F&& f) {
  return type == dtype::f32 ? f(float{}) : with_16_bits(type, f);
}

/// Sixteen bytes: what one load or store moves.
template <class T>
struct alignas(16) packet {
  static constexpr int size = 16 / sizeof(T);
  T v[size];
};

/// The two elements in four bytes.
__device__ inline float2 two_of(std::uint32_t bits, __nv_bfloat16) {
  return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
}
__device__ inline float2 two_of(std::uint32_t bits, __half) {
  return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}

/// Sum over the 32 lanes, the same on each; a fixed tree.
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

}  // namespace troupe::kernels::gpu
