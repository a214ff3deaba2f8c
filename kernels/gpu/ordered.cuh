#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace troupe::kernels::gpu {

/// Larger for larger x, never 0; no NaN. Zeros of both signs are one value.
__device__ inline std::uint32_t key_of(float x) {
  const std::uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float value_of(std::uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

}  // namespace troupe::kernels::gpu
