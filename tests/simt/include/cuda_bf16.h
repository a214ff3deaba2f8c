#pragma once
#include "cuda_fp16.h"

/// bfloat16 as kernels/gpu uses it. Arithmetic rounds once, as the hardware does.

struct __nv_bfloat16 {
  std::uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

namespace simt {

inline __nv_bfloat16 to_bfloat16(double x) { return {troupe::kernels::f32_to_bf16(round_to_odd(x))}; }
inline double to_double(__nv_bfloat16 b) { return troupe::kernels::bf16_to_f32(b.bits); }

}  // namespace simt

inline float __bfloat162float(__nv_bfloat16 b) { return troupe::kernels::bf16_to_f32(b.bits); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {troupe::kernels::f32_to_bf16(x)}; }
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
inline __nv_bfloat162 __hsub2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {simt::to_bfloat16(simt::to_double(a.x) - simt::to_double(b.x)),
          simt::to_bfloat16(simt::to_double(a.y) - simt::to_double(b.y))};
}
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {simt::to_bfloat16(simt::to_double(a.x) * simt::to_double(b.x)),
          simt::to_bfloat16(simt::to_double(a.y) * simt::to_double(b.y))};
}
