#include "kernels/common/block_values.hpp"
#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/step_inputs.hpp"

namespace troupe::kernels::gpu {
namespace {

// How the elements of a row are read: element(row, i).
template <class T>
struct plain_row {
  __device__ static float element(const std::byte* row, std::uint32_t i) {
    return troupe::kernels::gpu::element<T>::get(reinterpret_cast<const T*>(row)[i]);
  }
};
template <class Block>
struct block_row {
  __device__ static float element(const std::byte* row, std::uint32_t i) {
    const auto* blocks = reinterpret_cast<const Block*>(row);  // packed: any alignment
    return value(blocks[i / Block::elements], static_cast<int>(i % Block::elements));
  }
};

constexpr int embed_threads = 256;

/// Block (x, y): columns from y * 256 of token x; one element per thread and turn. A row is some kilobytes, read once
/// per token: not worth wide loads of blocks whose bytes lie at odd addresses.
template <class Row>
__global__ void embed_kernel(embedding_table table, const input_token* tokens, const std::int32_t* last_token,
                             float scale, float* h, const std::uint32_t* n_tokens) {
  const std::uint32_t t = blockIdx.x;
  if (t >= *n_tokens) return;
  const input_token input = tokens[t];
  const std::int32_t id = input >= 0 ? input : last_token[-1 - input];
  const std::uint32_t at = static_cast<std::uint32_t>(id) - table.first_row;
  const bool here = at < table.vocab;
  const std::byte* row = static_cast<const std::byte*>(table.data) + std::uint64_t{here ? at : 0} * table.row_bytes;
  float* out = h + std::uint64_t{t} * table.hidden;
  for (std::uint32_t i = blockIdx.y * embed_threads + threadIdx.x; i < table.hidden; i += gridDim.y * embed_threads)
    out[i] = here ? scale * Row::element(row, i) : 0.0f;
}

}  // namespace

cudaError_t embed(const embedding_table& table, const input_token* tokens, const std::int32_t* last_token, float scale,
                  float* h, const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t stream) {
  if (max_tokens == 0) return cudaSuccess;
  const std::uint32_t blocks = (table.hidden + embed_threads - 1) / embed_threads;
  const dim3 grid(max_tokens, blocks < 16 ? blocks : 16);
  const auto launch = [&](auto row) {
    return launch_kernel(embed_kernel<decltype(row)>, grid, embed_threads, 0, stream, table, tokens, last_token, scale,
                         h, n_tokens);
  };
  if (traits(table.type).quantized)
    return with_block(table.type, cudaErrorInvalidValue,
                      [&](auto block) { return launch(block_row<decltype(block)>{}); });
  return with_element(table.type, [&](auto x) { return launch(plain_row<decltype(x)>{}); });
}

}  // namespace troupe::kernels::gpu
