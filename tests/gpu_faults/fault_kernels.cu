#include "tests/gpu_faults/fault_kernels.hpp"

namespace troupe::test {
namespace {

constexpr std::uint64_t spin_limit_ns = 60'000'000'000;

__global__ void illegal_access_kernel(std::uintptr_t where) { *reinterpret_cast<volatile std::uint32_t*>(where) = 1; }

__device__ std::uint64_t nanoseconds() {
  std::uint64_t t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
  return t;
}

__global__ void spin_kernel(const volatile std::uint32_t* told) {
  const std::uint64_t start = nanoseconds();
  while (*told == 0 && nanoseconds() - start < spin_limit_ns) __nanosleep(1000);
}

}  // namespace

cudaError_t illegal_access(cudaStream_t stream) {
  illegal_access_kernel<<<1, 1, 0, stream>>>(64);
  return cudaGetLastError();
}

cudaError_t spin(const volatile std::uint32_t* told, cudaStream_t stream) {
  spin_kernel<<<1, 1, 0, stream>>>(told);
  return cudaGetLastError();
}

}  // namespace troupe::test
