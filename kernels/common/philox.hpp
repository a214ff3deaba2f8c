#pragma once
#include <bit>
#include <cstdint>

#include "kernels/common/floats.hpp"

/// The counter-based generator behind every random draw, for host and device: Philox4x32-10 (Salmon et al., «Parallel
/// random numbers: as easy as 1, 2, 3», 2011) and Gumbel noise from its words. No operation here may be contracted to a
/// fused one or replaced by a library function, so that the bits are equal everywhere.
namespace troupe::kernels {

struct philox_words {
  std::uint32_t w[4];
};

namespace detail {

#if defined(__CUDA_ARCH__)
__device__ inline float exact_mul(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float exact_add(float a, float b) { return __fadd_rn(a, b); }
__device__ inline float exact_div(float a, float b) { return __fdiv_rn(a, b); }
#else
TROUPE_HOST_DEVICE constexpr float exact_mul(float a, float b) { return a * b; }
TROUPE_HOST_DEVICE constexpr float exact_add(float a, float b) { return a + b; }
TROUPE_HOST_DEVICE constexpr float exact_div(float a, float b) { return a / b; }
#endif

inline constexpr std::uint32_t philox_m0 = 0xD2511F53u, philox_m1 = 0xCD9E8D57u;
inline constexpr std::uint32_t philox_w0 = 0x9E3779B9u, philox_w1 = 0xBB67AE85u;

/// Coefficients of log(1 + f) = f - f^2 / 2 + f^3 * (c[0] f^8 + ... + c[8]): Cephes, logf.
inline constexpr float log_coefficients[9] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                                              -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                                              2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
inline constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
/// Bits of a float just above sqrt(1/2): mantissas are brought to [sqrt(1/2), sqrt(2)).
inline constexpr std::uint32_t sqrt_half_bits = 0x3f3504f3u;

}  // namespace detail

TROUPE_HOST_DEVICE constexpr philox_words philox4x32_10(philox_words counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{detail::philox_m0} * counter.w[0];
    const std::uint64_t p1 = std::uint64_t{detail::philox_m1} * counter.w[2];
    counter = {{static_cast<std::uint32_t>(p1 >> 32) ^ counter.w[1] ^ key0, static_cast<std::uint32_t>(p1),
                static_cast<std::uint32_t>(p0 >> 32) ^ counter.w[3] ^ key1, static_cast<std::uint32_t>(p0)}};
    key0 += detail::philox_w0;
    key1 += detail::philox_w1;
  }
  return counter;
}

/// Natural logarithm of a positive, normal x, within 2 ulp.
TROUPE_HOST_DEVICE inline float exact_log(float x) {
  using namespace detail;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::int32_t k = static_cast<std::int32_t>(bits - sqrt_half_bits) >> 23;
  const float f = exact_add(std::bit_cast<float>(bits - (static_cast<std::uint32_t>(k) << 23)), -1.0f);
  const float n = static_cast<float>(k);
  const float square = exact_mul(f, f);
  // Numbers one by one: device code knows no host array.
  constexpr float c0 = log_coefficients[0], c1 = log_coefficients[1], c2 = log_coefficients[2],
                  c3 = log_coefficients[3], c4 = log_coefficients[4], c5 = log_coefficients[5],
                  c6 = log_coefficients[6], c7 = log_coefficients[7], c8 = log_coefficients[8];
  float p = exact_add(exact_mul(c0, f), c1);
  p = exact_add(exact_mul(p, f), c2);
  p = exact_add(exact_mul(p, f), c3);
  p = exact_add(exact_mul(p, f), c4);
  p = exact_add(exact_mul(p, f), c5);
  p = exact_add(exact_mul(p, f), c6);
  p = exact_add(exact_mul(p, f), c7);
  p = exact_add(exact_mul(p, f), c8);
  float y = exact_mul(exact_mul(p, f), square);
  y = exact_add(y, exact_mul(n, ln2_low));
  y = exact_add(y, exact_mul(-0.5f, square));
  return exact_add(exact_add(f, y), exact_mul(n, ln2_high));
}

/// Standard Gumbel noise from 32 random bits: -log(E) with E = -log(1 - v) exponential and v = (bits + 1/2) / 2^32.
/// Small E, large noise, decides a draw; it keeps the full resolution of v. Between -2.9 and 22.9.
TROUPE_HOST_DEVICE inline float gumbel(std::uint32_t random_bits) {
  using namespace detail;
  // Through the signed conversion, because vector units have no unsigned one: high and low halves are exact.
  const float high = exact_mul(static_cast<float>(static_cast<std::int32_t>(random_bits >> 16)), 0x1p-16f);
  const float low =
      exact_mul(exact_add(static_cast<float>(static_cast<std::int32_t>(random_bits & 0xffffu)), 0.5f), 0x1p-32f);
  float v = exact_add(high, low);
  v = v < 1.0f ? v : 1.0f - 0x1p-24f;
  const float w = exact_add(1.0f, -v);
  const float lost = exact_add(exact_add(w, -1.0f), v);  // what rounding took from 1 - v
  const float e = exact_add(-exact_log(w), exact_div(lost, w));
  return -exact_log(e);
}

/// The four words for tokens 4 * quad .. 4 * quad + 3 at an absolute position of a sequence: a draw depends on nothing
/// else.
TROUPE_HOST_DEVICE constexpr philox_words draw_words(std::uint64_t seed, std::uint32_t choice, std::uint32_t position,
                                                     std::uint32_t quad) {
  return philox4x32_10({{quad, position, choice, 0}}, static_cast<std::uint32_t>(seed),
                       static_cast<std::uint32_t>(seed >> 32));
}

TROUPE_HOST_DEVICE inline float draw_gumbel(std::uint64_t seed, std::uint32_t choice, std::uint32_t position,
                                            std::uint32_t token) {
  return gumbel(draw_words(seed, choice, position, token / 4).w[token % 4]);
}

}  // namespace troupe::kernels
