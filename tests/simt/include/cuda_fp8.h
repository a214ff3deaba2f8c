#pragma once
#include <cmath>

#include "cuda_fp16.h"

/// e4m3 as kernels/gpu uses it.

using __nv_fp8_storage_t = std::uint8_t;
using __nv_fp8x2_storage_t = std::uint16_t;
enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

struct __nv_fp8_e4m3 {
  __nv_fp8_storage_t __x;
  explicit operator float() const { return troupe::kernels::e4m3_to_f32(__x); }
};

inline __half2_raw __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t codes, __nv_fp8_interpretation_t) {
  const auto half = [](unsigned code) {
    return troupe::kernels::f32_to_f16(troupe::kernels::e4m3_to_f32(static_cast<std::uint8_t>(code)));
  };
  return {half(codes & 255u), half(codes >> 8)};
}

/// To nearest, ties to even; beyond 448 it stays there, NaN stays NaN.
inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t, __nv_fp8_interpretation_t) {
  const std::uint32_t sign = __builtin_bit_cast(std::uint32_t, x) >> 24 & 0x80u;
  if (x != x) return static_cast<__nv_fp8_storage_t>(sign | 0x7f);
  const float size = std::fabs(x);
  if (size >= 448.0f) return static_cast<__nv_fp8_storage_t>(sign | 0x7e);
  // In units of the last digit, which below 2^-6 no longer shrinks.
  const int exponent = size < 0x1p-6f ? -6 : std::ilogb(size);
  const int digits = static_cast<int>(std::nearbyint(std::ldexp(size, 3 - exponent)));  // 16: the next exponent
  return static_cast<__nv_fp8_storage_t>(sign | static_cast<std::uint32_t>(digits + 8 * (exponent + 6)));
}
