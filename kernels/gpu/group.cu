#include "kernels/gpu/group.hpp"

#include "kernels/gpu/dependent.cuh"

namespace troupe::kernels::gpu {
namespace {

constexpr std::uint32_t threads = 256;

/// Four elements per thread and turn.
__global__ void add_parts_kernel(float4* h, const float4* parts, std::uint32_t size, std::uint64_t stride,
                                 std::uint64_t n) {
  for (std::uint64_t i = std::uint64_t{blockIdx.x} * threads + threadIdx.x; i < n;
       i += std::uint64_t{gridDim.x} * threads) {
    float4 sum = parts[i];
    for (std::uint32_t r = 1; r < size; ++r) {
      const float4 p = parts[r * stride + i];
      sum = {sum.x + p.x, sum.y + p.y, sum.z + p.z, sum.w + p.w};
    }
    const float4 x = h[i];
    h[i] = {x.x + sum.x, x.y + sum.y, x.z + sum.z, x.w + sum.w};
  }
}

/// Block (x, y, z): columns of row y of part z.
__global__ void join_logits_kernel(const __grid_constant__ vocab_parts p, const float* parts, float* out,
                                   std::uint32_t n_rows) {
  const std::uint32_t r = blockIdx.z, t = blockIdx.y, vocab = p.begin[p.size];
  const std::uint32_t first = p.begin[r], count = p.begin[r + 1] - first;
  const float* from = parts + (std::uint64_t{r} * n_rows + t) * p.ld;
  float* to = out + std::uint64_t{t} * vocab + first;
  for (std::uint32_t i = blockIdx.x * threads + threadIdx.x; i < count; i += gridDim.x * threads) to[i] = from[i];
}

}  // namespace

cudaError_t add_parts(float* h, const float* parts, std::uint32_t size, std::uint64_t stride, std::uint64_t n,
                      cudaStream_t stream) {
  if (n == 0 || size == 0) return cudaSuccess;
  if (n % 4 != 0 || stride % 4 != 0) return cudaErrorInvalidValue;
  const std::uint64_t blocks = (n / 4 + threads - 1) / threads;
  return launch_kernel(add_parts_kernel, static_cast<std::uint32_t>(blocks < 1024 ? blocks : 1024), threads, 0, stream,
                       reinterpret_cast<float4*>(h), reinterpret_cast<const float4*>(parts), size, stride / 4, n / 4);
}

cudaError_t join_logits(const vocab_parts& p, const float* parts, float* out, std::uint32_t n_rows,
                        cudaStream_t stream) {
  if (n_rows == 0) return cudaSuccess;
  if (p.size == 0 || p.size > vocab_parts::most || n_rows > 65535) return cudaErrorInvalidValue;
  const std::uint32_t blocks = (p.ld + threads - 1) / threads;
  return launch_kernel(join_logits_kernel, dim3(blocks < 32 ? blocks : 32, n_rows, p.size), threads, 0, stream, p,
                       parts, out, n_rows);
}

}  // namespace troupe::kernels::gpu
