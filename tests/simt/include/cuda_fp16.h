#pragma once
#include "kernels/common/floats.hpp"
#include "simt/vectors.hpp"

/// binary16 as kernels/gpu uses it. Arithmetic rounds once, as the hardware does.

struct __half {
  std::uint16_t bits;
};
struct alignas(4) __half2_raw {
  std::uint16_t x, y;
};
struct alignas(4) __half2 {
  __half x, y;
  __half2() = default;
  constexpr __half2(__half x_, __half y_) : x(x_), y(y_) {}
  constexpr __half2(__half2_raw r) : x{r.x}, y{r.y} {}
};

namespace simt {

/// To f32 so that rounding once more to fewer digits rounds rightly: what does not fit leaves its mark in the last bit.
inline float round_to_odd(double x) {
  const float f = static_cast<float>(x);
  if (static_cast<double>(f) == x || f - f != 0) return f;
  std::uint32_t bits = __builtin_bit_cast(std::uint32_t, f);
  const double size = x < 0 ? -x : x, rounded = f < 0 ? -static_cast<double>(f) : static_cast<double>(f);
  if (rounded > size) --bits;  // back to what is cut off
  return __builtin_bit_cast(float, bits | 1);
}
inline __half to_half(double x) { return {troupe::kernels::f32_to_f16(round_to_odd(x))}; }
inline double to_double(__half h) { return troupe::kernels::f16_to_f32(h.bits); }

}  // namespace simt

inline float __half2float(__half h) { return troupe::kernels::f16_to_f32(h.bits); }
inline __half __float2half_rn(float x) { return {troupe::kernels::f32_to_f16(x)}; }
inline __half __float2half(float x) { return __float2half_rn(x); }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline float __low2float(__half2 h) { return __half2float(h.x); }
inline float __high2float(__half2 h) { return __half2float(h.y); }
inline __half2 __hsub2(__half2 a, __half2 b) {
  return {simt::to_half(simt::to_double(a.x) - simt::to_double(b.x)),
          simt::to_half(simt::to_double(a.y) - simt::to_double(b.y))};
}
inline __half2 __hmul2(__half2 a, __half2 b) {
  return {simt::to_half(simt::to_double(a.x) * simt::to_double(b.x)),
          simt::to_half(simt::to_double(a.y) * simt::to_double(b.y))};
}
/// Products of two are exact in double, and where the sum is not, what is lost is too small to matter.
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {simt::to_half(simt::to_double(a.x) * simt::to_double(b.x) + simt::to_double(c.x)),
          simt::to_half(simt::to_double(a.y) * simt::to_double(b.y) + simt::to_double(c.y))};
}
