#pragma once
#include <cstdint>

namespace troupe::kernels::gpu {

/// Nanoseconds of the card's own clock; steps of up to a microsecond on some cards.
__device__ inline std::uint64_t card_clock() {
  std::uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

}  // namespace troupe::kernels::gpu
