#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace troupe::kernels::gpu {

/// Whether this block is the last of n that call it: then, after a __threadfence(), what the others wrote before can be
/// read (past the L1 cache). The counter is zero again, as it has to be at first. All threads of the block call it.
/// is_last: shared memory of the kernel's; counter_of: where the counter is, asked by one thread.
template <class Counter>
__device__ __forceinline__ bool is_last_block(bool& is_last, std::uint32_t n, Counter&& counter_of) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    std::uint32_t* const counter = counter_of();
    is_last = atomicAdd(counter, 1u) + 1 == n;
    if (is_last) *counter = 0;
  }
  __syncthreads();
  return is_last;
}

}  // namespace troupe::kernels::gpu
