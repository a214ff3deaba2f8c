#pragma once
#include <algorithm>

#include "perf/gpu_timing.hpp"

// What reading gives at most: the measure of everything that is bound by it.
namespace perf {

/// Sums what it reads, so that nothing is left out; four loads of 16 bytes on their way per thread.
static __global__ void read_kernel(const uint4* from, std::size_t n, unsigned* out) {
  unsigned sum = 0;
  const std::size_t step = std::size_t{gridDim.x} * blockDim.x;
  std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * step < n; i += 4 * step) {
    uint4 v[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) v[k] = __ldcs(from + i + k * step);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  if (sum == 0x12345678u) *out = sum;
}

/// The best of some kernels that read 8 GiB, in bytes per second.
inline double read_bandwidth() {
  constexpr std::size_t bytes = std::size_t{8} << 30;
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes));
  check(cudaMemset(memory, 1, bytes));
  int device = 0, sms = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  double best = 0;
  for (int blocks : {2, 4, 8})
    for (int round = 0; round < 5; ++round) {
      const float ms = milliseconds([&] {
        read_kernel<<<sms * blocks, 512>>>(static_cast<const uint4*>(memory), bytes / 16,
                                           static_cast<unsigned*>(memory));
      });
      best = std::max(best, static_cast<double>(bytes) / (ms * 1e-3));
    }
  check(cudaFree(memory));
  return best;
}

}  // namespace perf
