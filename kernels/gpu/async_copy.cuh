#pragma once
#include <cstdint>

/// cp.async: copies from global to shared memory that a thread issues and waits for later.
namespace troupe::kernels::gpu {

/// The address of a shared object as the instructions take it.
__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// 16 bytes past L1. Both sides aligned to 16. Without `wanted` nothing is read and zeros are written.
__device__ inline void copy_16_async(std::uint32_t to, const void* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
               "r"(wanted ? 16 : 0)
               : "memory");
}
__device__ inline void copy_4_async(std::uint32_t to, const void* from, bool wanted) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
               "r"(wanted ? 4 : 0)
               : "memory");
}

/// Closes this thread's group of copies; empty groups count.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `pending` of this thread's last groups are under way. Others see the data after a barrier.
template <int Pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace troupe::kernels::gpu
