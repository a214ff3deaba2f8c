#pragma once
#include "kernels/gpu/ptx.cuh"

namespace troupe::kernels::gpu {

/// Nanoseconds of the card's own clock; steps of up to a microsecond on some cards.
__device__ inline std::uint64_t card_clock() { return ptx::globaltimer(); }

}  // namespace troupe::kernels::gpu
