#include "kernels/gpu/card_clock.cuh"
#include "kernels/gpu/step_inputs.hpp"

namespace troupe::kernels::gpu {
namespace {

/// One thread moves 16 bytes per turn. Volatile, so that a line of an earlier step is not taken out of a cache.
__global__ void pull_inputs_kernel(const volatile uint4* from, uint4* to, std::uint32_t n, std::uint64_t* began) {
  if (began != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *began = card_clock();
  for (std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    uint4 v;
    v.x = from[i].x;
    v.y = from[i].y;
    v.z = from[i].z;
    v.w = from[i].w;
    to[i] = v;
  }
}

__global__ void update_page_table_kernel(const page_entry* entries, const std::uint32_t* n, std::uint32_t* page_table,
                                         std::uint32_t table_pages) {
  for (std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < *n; i += gridDim.x * blockDim.x)
    page_table[std::size_t{entries[i].slot} * table_pages + entries[i].index] = entries[i].page;
}

/// Block (x, y): copy x, or x + gridDim.x and so on, of pool y; 16 bytes per thread and turn.
__global__ void copy_pages_kernel(const page_copy* copies, const std::uint32_t* n, void* const* pools,
                                  std::uint64_t page_packets) {
  uint4* pool = static_cast<uint4*>(pools[blockIdx.y]);
  for (std::uint32_t c = blockIdx.x; c < *n; c += gridDim.x) {
    const uint4* from = pool + copies[c].from * page_packets;
    uint4* to = pool + copies[c].to * page_packets;
    for (std::uint64_t i = threadIdx.x; i < page_packets; i += blockDim.x) to[i] = from[i];
  }
}

}  // namespace

cudaError_t pull_inputs(const void* pinned, void* device, std::uint32_t n_words, cudaStream_t stream,
                        std::uint64_t* began) {
  const std::uint32_t n = n_words / 4;
  if (n == 0) return cudaSuccess;
  const std::uint32_t blocks = n < 256 * 32 ? (n + 255) / 256 : 32;
  pull_inputs_kernel<<<blocks, 256, 0, stream>>>(static_cast<const volatile uint4*>(pinned),
                                                 static_cast<uint4*>(device), n, began);
  return cudaGetLastError();
}

cudaError_t update_page_table(const page_entry* entries, const std::uint32_t* n, std::uint32_t max_n,
                              std::uint32_t* page_table, std::uint32_t table_pages, cudaStream_t stream) {
  if (max_n == 0) return cudaSuccess;
  const std::uint32_t blocks = max_n < 256 * 16 ? (max_n + 255) / 256 : 16;
  update_page_table_kernel<<<blocks, 256, 0, stream>>>(entries, n, page_table, table_pages);
  return cudaGetLastError();
}

cudaError_t copy_pages(const page_copy* copies, const std::uint32_t* n, std::uint32_t max_n, void* const* pools,
                       std::uint32_t n_pools, std::uint64_t page_bytes, cudaStream_t stream) {
  if (max_n == 0 || n_pools == 0) return cudaSuccess;
  const dim3 grid(max_n < 16 ? max_n : 16, n_pools);
  copy_pages_kernel<<<grid, 128, 0, stream>>>(copies, n, pools, page_bytes / 16);
  return cudaGetLastError();
}

}  // namespace troupe::kernels::gpu
