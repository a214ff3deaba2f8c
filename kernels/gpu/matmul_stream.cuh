#pragma once
#include "kernels/gpu/matmul_block.cuh"
#include "kernels/gpu/matmul_rows.cuh"

/// Products bound by reading the weights: a warp per segment of K; each lane's pieces pass through a queue of its own
/// in shared memory, so that nobody waits for anybody until the segments are added.
namespace troupe::kernels::gpu::matmul_kernels {

/// Weights streamed: rows x 64 bytes per block of columns and warp.
constexpr int n_stream_threads = static_cast<int>(max_segments) * 32;

/// Block (i, j): tile i of up to N tokens, weight rows R j ...; warp s: segment s. Bytes moved: R x cols weights and at
/// most N x cols of x per block. Tiles of one expert are neighbours, which read its rows from memory once.
template <class T, class Y, int R, int N, int n_stages, class Rows>
__global__ __launch_bounds__(n_stream_threads) void stream_kernel(const matmul_args a, const Rows rows) {
  constexpr int n_low = R / 8, n_pieces = n_low + N / 8;  // 16-byte pieces per lane and block of columns
  uint4* const queue = dynamic_shared<uint4>();           // [stage][piece][thread]
  begin<Rows>();
  const token_tile tile = rows.tile(blockIdx.x, N);
  const block_rows<Rows, R> own(a, blockIdx.y);
  const std::uint32_t n = tile.end, first_token = tile.first, first_row = own.first_out;
  if (first_token >= n) return;
  const std::uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, segment = threadIdx.x / 32;
  const std::uint32_t first_col = segment * segment_columns(a.cols);
  const std::uint32_t last_col = min(a.cols, first_col + segment_columns(a.cols));
  const std::uint32_t n_blocks = first_col < last_col ? (last_col - first_col + block_columns - 1) / block_columns : 0;
  const T* const matrix = matrix_of<T>(a, rows, tile);
  const T* const weight = matrix + std::size_t{first_row + g} * a.cols;
  const T* const x = static_cast<const T*>(a.x) + std::size_t{first_token + g} * a.cols;
  const T* scattered[N / 8];
  if constexpr (Rows::scattered)
    find_rows(scattered, rows, tile, static_cast<const T*>(a.x), a.cols, first_token + g, 8);

  const auto load = [&](std::uint32_t block) {
    if (block < n_blocks) {
      uint4* to = queue + block % n_stages * (n_pieces * n_stream_threads) + threadIdx.x;
      const std::uint32_t col = first_col + block * block_columns + 8 * t;
      const bool inside = col < last_col;  // whole pieces: both ends are multiples of 8
#pragma unroll
      for (int i = 0; i < n_low; ++i) {
        const bool valid = inside && own.valid(8 * i + g);
        const T* const row =
            Rows::gated ? matrix + std::size_t{own.row(8 * i + g)} * a.cols : weight + std::size_t{8u * i} * a.cols;
        copy_16_async(shared_address(to + i * n_stream_threads), valid ? row + col : a.weight, valid);
      }
#pragma unroll
      for (int j = 0; j < N / 8; ++j) {
        const bool valid = inside && first_token + 8 * j + g < n;
        const T* const row = Rows::scattered ? scattered[j] : x + std::size_t{8u * j} * a.cols;
        copy_16_async(shared_address(to + (n_low + j) * n_stream_threads), valid ? row + col : a.x, valid);
      }
    }
    commit_copies();
  };

  float sums[R / 16][N / 8][4] = {};
#pragma unroll
  for (int s = 0; s < n_stages - 1; ++s) load(static_cast<std::uint32_t>(s));
  for (std::uint32_t block = 0; block < n_blocks; ++block) {
    wait_copies<n_stages - 2>();
    load(block + n_stages - 1);  // where this thread's pieces of the block before were
    const uint4* from = queue + block % n_stages * (n_pieces * n_stream_threads) + threadIdx.x;
    uint4 tokens[N / 8];
#pragma unroll
    for (int j = 0; j < N / 8; ++j) tokens[j] = from[(n_low + j) * n_stream_threads];
#pragma unroll
    for (int i = 0; i < R / 16; ++i) {
      const uint4 low = from[2 * i * n_stream_threads], high = from[(2 * i + 1) * n_stream_threads];
#pragma unroll
      for (int j = 0; j < N / 8; ++j) multiply_block<T>(sums[i][j], low, high, tokens[j]);
    }
  }
  wait_copies<0>();
  __syncthreads();  // the queues become room for the segments' sums

  constexpr int stride = R + 4;  // floats per token: the lanes of a warp meet different banks
  float* const partial = reinterpret_cast<float*>(queue);
#pragma unroll
  for (int i = 0; i < R / 16; ++i)
#pragma unroll
    for (int j = 0; j < N / 8; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        partial[(segment * N + 8 * j + 2 * t + c % 2) * stride + 16 * i + g + c / 2 * 8] = sums[i][j][c];
  __syncthreads();
  const std::uint32_t n_segments = segment_count(a.cols);
  constexpr int n_out = block_rows<Rows, R>::n_out;
  for (std::uint32_t o = threadIdx.x; o < N * n_out; o += n_stream_threads) {
    const std::uint32_t token = o / n_out, row = o % n_out;
    if (first_token + token >= n || first_row + row >= own.n_rows) continue;
    const auto sum_of = [&](std::uint32_t r) {
      float sum = partial[token * stride + r];
      for (std::uint32_t s = 1; s < n_segments; ++s) sum = __fadd_rn(sum, partial[(s * N + token) * stride + r]);
      return sum;
    };
    put<Y>(a, first_token + token, first_row + row, finished(rows, row, sum_of));
  }
}

}  // namespace troupe::kernels::gpu::matmul_kernels
