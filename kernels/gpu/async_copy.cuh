#pragma once
#include "kernels/gpu/ptx.cuh"

/// cp.async: copies from global to shared memory that a thread issues and waits for later.
namespace troupe::kernels::gpu {

using ptx::shared_address;

/// 16 bytes past L1. Both sides aligned to 16. Without `wanted` nothing is read and zeros are written.
__device__ inline void copy_16_async(std::uint32_t to, const void* from, bool wanted) {
  ptx::cp_async_16(to, from, wanted ? 16 : 0);
}
__device__ inline void copy_4_async(std::uint32_t to, const void* from, bool wanted) {
  ptx::cp_async_4(to, from, wanted ? 4 : 0);
}

/// Closes this thread's group of copies; empty groups count.
__device__ inline void commit_copies() { ptx::cp_async_commit_group(); }

/// Waits until at most `pending` of this thread's last groups are under way. Others see the data after a barrier.
template <int Pending>
__device__ inline void wait_copies() {
  ptx::cp_async_wait_group<Pending>();
}

}  // namespace troupe::kernels::gpu
