#pragma once
#include <bit>
#include <cstdint>

#if defined(__CUDACC__)
#define TROUPE_HOST_DEVICE __host__ __device__
#else
#define TROUPE_HOST_DEVICE
#endif

namespace troupe::kernels {

/// The bits of an IEEE binary16 and of a bfloat16, as they lie in files and buffers.
using f16_bits = std::uint16_t;
using bf16_bits = std::uint16_t;

/// Exact, subnormals included. A NaN keeps its sign and payload and becomes quiet.
TROUPE_HOST_DEVICE constexpr float f16_to_f32(f16_bits h) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1fu;
  std::uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1f) {
    const std::uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  if (mantissa == 0) return std::bit_cast<float>(sign);
  // Subnormal: mantissa * 2^-24. Moving the leading one to bit 10 makes it the hidden bit.
  std::uint32_t shift = 0;
  while ((mantissa & 0x400u) == 0) {
    mantissa <<= 1;
    ++shift;
  }
  return std::bit_cast<float>(sign | ((113 - shift) << 23) | ((mantissa & 0x3ffu) << 13));
}

/// Rounds to nearest, ties to even; overflow gives infinity; a NaN becomes quiet and keeps the upper payload bits.
TROUPE_HOST_DEVICE constexpr f16_bits f32_to_f16(float f) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<f16_bits>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  // 65520 is half way between the largest finite f16 and 2^16: from there on the result is infinity.
  if (magnitude >= 0x477ff000u) return static_cast<f16_bits>(sign | 0x7c00u);
  if (magnitude >= 0x38800000u) {  // 2^-14 and more: a normal f16
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<f16_bits>(sign | ((rounded - (112u << 23)) >> 13));
  }
  if (magnitude < 0x33000000u) return static_cast<f16_bits>(sign);  // below 2^-25: zero
  const std::uint32_t exponent = magnitude >> 23;
  const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const std::uint32_t shift = 126 - exponent;  // 14..24 bits fall away
  const std::uint32_t half = 1u << (shift - 1);
  const std::uint32_t rounded = (mantissa + half - 1 + ((mantissa >> shift) & 1u)) >> shift;
  return static_cast<f16_bits>(sign | rounded);
}

/// Exact.
TROUPE_HOST_DEVICE constexpr float bf16_to_f32(bf16_bits b) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16);
}

/// Rounds to nearest, ties to even; overflow gives infinity; a NaN becomes quiet and keeps the upper payload bits.
TROUPE_HOST_DEVICE constexpr bf16_bits f32_to_bf16(float f) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<bf16_bits>((bits >> 16) | 0x40u);
  return static_cast<bf16_bits>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/// OCP 8-bit floating point 1.0, E4M3: 448 is the largest, there are no infinities, 0x7f and 0xff are NaN. Exact.
TROUPE_HOST_DEVICE constexpr float e4m3_to_f32(std::uint8_t code) noexcept {
  if ((code & 0x7f) == 0x7f) return f16_to_f32(static_cast<f16_bits>(0x7e00 | ((code & 0x80) << 8)));
  // Read as an f16 of the same digits it is 2^8 too small, subnormals included.
  return 256.0f * f16_to_f32(static_cast<f16_bits>(((code & 0x80) << 8) | ((code & 0x7f) << 7)));
}

/// 2^(e-128), which is half of what the OCP microscaling byte e means: MXFP4 tables hold doubled values.
TROUPE_HOST_DEVICE constexpr float e8m0_to_f32_half(std::uint8_t e) noexcept {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : static_cast<std::uint32_t>(e - 1) << 23);
}

}  // namespace troupe::kernels
