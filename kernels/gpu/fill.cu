#include "kernels/common/philox.hpp"
#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"

namespace troupe::kernels::gpu {
namespace {

/// Two normals out of two words (Box and Muller, 1958); u1 in (0, 1].
__device__ float2 normal_pair(std::uint32_t a, std::uint32_t b) {
  const float u1 = (static_cast<float>(a >> 8) + 1.0f) * 0x1p-24f, u2 = static_cast<float>(b >> 8) * 0x1p-24f;
  const float radius = sqrtf(-2.0f * logf(u1));
  float sine, cosine;
  sincospif(2.0f * u2, &sine, &cosine);
  return {radius * cosine, radius * sine};
}

/// A thread makes elements 4 i to 4 i + 3 from the Philox words of counter i.
template <class T>
__global__ void fill_normal_kernel(T* out, std::uint64_t n, float deviation, std::uint64_t seed) {
  const std::uint64_t quads = (n + 3) / 4;
  for (std::uint64_t i = blockIdx.x * std::uint64_t{blockDim.x} + threadIdx.x; i < quads;
       i += std::uint64_t{gridDim.x} * blockDim.x) {
    const philox_words w = philox4x32_10({{static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32), 0, 0}},
                                         static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
    const float2 a = normal_pair(w.w[0], w.w[1]), b = normal_pair(w.w[2], w.w[3]);
    const float x[4] = {a.x, a.y, b.x, b.y};
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (4 * i + j < n) out[4 * i + j] = element<T>::put(deviation * x[j]);
  }
}

}  // namespace

cudaError_t fill_normal(void* out, dtype type, std::uint64_t n, float deviation, std::uint64_t seed,
                        cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  const std::uint64_t wanted = (n + 1023) / 1024;
  const std::uint32_t blocks = wanted > 4096 ? 4096 : static_cast<std::uint32_t>(wanted);
  return with_element(type, [&](auto x) {
    using T = decltype(x);
    return launch_kernel(fill_normal_kernel<T>, blocks, 256, 0, stream, static_cast<T*>(out), n, deviation, seed);
  });
}

}  // namespace troupe::kernels::gpu
