#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/gpu/ptx.cuh"

/// Codes of packed weights as exact f16 or bf16 integers in registers.
namespace troupe::kernels::gpu::packed {

/// std::bit_cast for pairs, which their headers do not let be trivially copyable.
template <class To, class From>
__device__ To as(From x) {
  static_assert(sizeof(To) == sizeof(From));
  return *reinterpret_cast<To*>(&x);
}

/// (a & b) | c and (a & b) ^ c in one instruction.
__device__ inline std::uint32_t and_or(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  return ptx::lop3<0xea>(a, b, c);
}
__device__ inline std::uint32_t and_xor(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  return ptx::lop3<0x6a>(a, b, c);
}

// Weights are read once and whole: they need no place in L1, which holds x.
__device__ inline uint4 stream16(const std::byte* p) { return ptx::load_nc_no_allocate_16(p); }
__device__ inline uint2 stream8(const std::byte* p) { return ptx::load_nc_no_allocate_8(p); }
__device__ inline std::uint32_t stream4(const std::byte* p) { return ptx::load_nc_no_allocate_4(p); }

// Loads under a predicate, zero without: a branch would keep the compiler from issuing several before the first use.
__device__ inline uint4 load_if16(const void* p, bool there) { return ptx::load_nc_if_16(p, there); }
__device__ inline uint2 load_if8(const void* p, bool there) { return ptx::load_nc_if_8(p, there); }

/// Byte `i` of w minus `offset` as f32, by way of 2^23 + byte.
__device__ inline float byte_f32(std::uint32_t w, int i, float offset) {
  return __uint_as_float(__byte_perm(w, 0x4b000000u, 0x7440u | i)) - (8388608.0f + offset);
}
__device__ inline float low_f16(std::uint32_t w) { return __low2float(as<__half2>(w)); }
__device__ inline float high_f16(std::uint32_t w) { return __high2float(as<__half2>(w)); }

/// Pairs of codes as pairs of T. A pair sits in the low bits of both halves of a word; or-ing the digits of a power of
/// two whose last digit is 1 above them and taking that power away again makes integers.
template <class T>
struct codes;

template <>
struct codes<__half> {
  static constexpr std::uint32_t one = 0x3c003c00u;
  __device__ static std::uint32_t sub(std::uint32_t a, std::uint32_t b) {
    return as<std::uint32_t>(__hsub2(as<__half2>(a), as<__half2>(b)));
  }
  /// The pairs 0 to 3 of a word of eight nibbles, 0..15. Odd ones are read as 1024 + 16 q and divided.
  __device__ static void nibbles(std::uint32_t w, std::uint32_t (&out)[4]) {
    const __half2 sixteenth = as<__half2>(0x2c002c00u), minus_64 = as<__half2>(0xd400d400u);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::uint32_t v = i == 0 ? w : w >> 8;
      out[2 * i] = sub(and_or(v, 0x000f000fu, 0x64006400u), 0x64006400u);
      out[2 * i + 1] =
          as<std::uint32_t>(__hfma2(as<__half2>(and_or(v, 0x00f000f0u, 0x64006400u)), sixteenth, minus_64));
    }
  }
  /// low's pair of nibbles with bits 4 and 5 of each half of high above them, minus 32.
  __device__ static std::uint32_t six_bits(std::uint32_t low, std::uint32_t high) {
    return sub(and_or(high, 0x00300030u, and_or(low, 0x000f000fu, 0x64006400u)), 0x64206420u);
  }
  /// Bytes 2 i and 2 i + 1 of w, minus 128.
  __device__ static std::uint32_t bytes(std::uint32_t w, int i) {
    return sub(__byte_perm(w, 0x64646464u, i == 0 ? 0x4140u : 0x4342u), 0x64806480u);
  }
  /// Bytes 2 i and 2 i + 1 of w as e4m3, times 2^-8: the digits of e4m3 are those of an f16 with a smaller exponent.
  static constexpr float e4m3_factor = 256.0f;
  __device__ static std::uint32_t e4m3(std::uint32_t w, int i) {
    const std::uint32_t p = __byte_perm(w, 0, i == 0 ? 0x1404u : 0x3424u);
    return and_or(p, 0x80008000u, (p >> 1) & 0x3f803f80u);
  }
};

template <>
struct codes<__nv_bfloat16> {
  static constexpr std::uint32_t one = 0x3f803f80u;
  __device__ static std::uint32_t sub(std::uint32_t a, std::uint32_t b) {
    return as<std::uint32_t>(__hsub2(as<__nv_bfloat162>(a), as<__nv_bfloat162>(b)));
  }
  __device__ static void nibbles(std::uint32_t w, std::uint32_t (&out)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = sub(and_or(w >> (4 * i), 0x000f000fu, 0x43004300u), 0x43004300u);
  }
  __device__ static std::uint32_t six_bits(std::uint32_t low, std::uint32_t high) {
    return sub(and_or(high, 0x00300030u, and_or(low, 0x000f000fu, 0x43004300u)), 0x43204320u);
  }
  /// Seven bits fit behind 128; the eighth turns the 256 that is taken away into 128.
  __device__ static std::uint32_t bytes(std::uint32_t w, int i) {
    const std::uint32_t p = __byte_perm(w, 0, i == 0 ? 0x4140u : 0x4342u);
    return sub(and_or(p, 0x007f007fu, 0x43004300u), and_xor(p, 0x00800080u, 0x43804380u));
  }
  /// Read as bf16 the digits are 2^-120 of the value: too small to multiply, so that is put right here.
  static constexpr float e4m3_factor = 1.0f;
  __device__ static std::uint32_t e4m3(std::uint32_t w, int i) {
    const std::uint32_t p = __byte_perm(w, 0, i == 0 ? 0x1404u : 0x3424u);
    const std::uint32_t digits = and_or(p, 0x80008000u, (p >> 4) & 0x07f007f0u);
    return as<std::uint32_t>(__hmul2(as<__nv_bfloat162>(digits), as<__nv_bfloat162>(0x7b807b80u)));
  }
};

}  // namespace troupe::kernels::gpu::packed
