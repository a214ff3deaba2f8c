#include "kernels/gpu/step_inputs.hpp"

#include "kernels/gpu/card_clock.cuh"
#include "kernels/gpu/dependent.cuh"

namespace troupe::kernels::gpu {
namespace {

/// One thread moves 16 bytes per turn, by one load: of a volatile uint4 the compiler makes four, each a request over the
/// bus. Volatile, so that a line of an earlier step is not taken out of a cache.
__global__ void pull_inputs_kernel(const uint4* from, uint4* to, std::uint32_t n, std::uint64_t* began) {
  if (began != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *began = card_clock();
  for (std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    to[i] = ptx::load_volatile_16(from + i);
}

__global__ void update_page_table_kernel(const page_entry* entries, const std::uint32_t* n, std::uint32_t* page_table,
                                         std::uint32_t table_pages) {
  for (std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < *n; i += gridDim.x * blockDim.x)
    page_table[std::size_t{entries[i].slot} * table_pages + entries[i].index] = entries[i].page;
}

}  // namespace

cudaError_t pull_inputs(const void* pinned, void* device, std::uint32_t n_words, cudaStream_t stream,
                        std::uint64_t* began) {
  const std::uint32_t n = n_words / 4;
  if (n == 0) return cudaSuccess;
  const std::uint32_t blocks = n < 256 * 32 ? (n + 255) / 256 : 32;
  return launch_kernel(pull_inputs_kernel, blocks, 256, 0, stream, static_cast<const uint4*>(pinned),
                       static_cast<uint4*>(device), n, began);
}

cudaError_t update_page_table(const page_entry* entries, const std::uint32_t* n, std::uint32_t max_n,
                              std::uint32_t* page_table, std::uint32_t table_pages, cudaStream_t stream) {
  if (max_n == 0) return cudaSuccess;
  const std::uint32_t blocks = max_n < 256 * 16 ? (max_n + 255) / 256 : 16;
  return launch_kernel(update_page_table_kernel, blocks, 256, 0, stream, entries, n, page_table, table_pages);
}

}  // namespace troupe::kernels::gpu
