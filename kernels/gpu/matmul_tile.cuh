#pragma once
#include "kernels/gpu/matmul_block.cuh"
#include "kernels/gpu/matmul_rows.cuh"

/// Products of many tokens: blocks of rows x tokens, whose pieces the warps of a block share.
namespace troupe::kernels::gpu::matmul_kernels {

/// Block (i, j): tile i of up to BN tokens, weight rows BM j ...: neighbours in time share weight rows in the L2 cache.
/// Each warp computes WM x WN. Shared memory: n_stages x (BM + BN) x 64 bytes, then BM x BN sums of the segments that
/// are done, each thread's own.
template <class T, class Y, int BM, int BN, int WM, int WN, int n_stages, class Rows>
__global__ __launch_bounds__(BM / WM * (BN / WN) * 32, 2) void tile_kernel(const matmul_args a, const Rows rows) {
  constexpr int n_threads = BM / WM * (BN / WN) * 32;
  constexpr int stage_pieces = (BM + BN) * 4, w_loads = BM * 4 / n_threads, x_loads = BN * 4 / n_threads;
  constexpr int load_rows = n_threads / 4;  // rows that all threads load at once, 64 bytes each
  static_assert(w_loads * n_threads == BM * 4 && x_loads * n_threads == BN * 4);
  uint4* const stages = dynamic_shared<uint4>();  // [stage][BM weight rows, then BN token rows][4 pieces]
  begin<Rows>();
  const token_tile tile = rows.tile(blockIdx.x, BN);
  const block_rows<Rows, BM> own(a, blockIdx.y);
  const std::uint32_t n = tile.end, first_token = tile.first, first_row = own.first_out;
  if (first_token >= n) return;
  const std::uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::uint32_t warp_row = warp % (BM / WM) * WM, warp_token = warp / (BM / WM) * WN;
  const std::uint32_t load_row = threadIdx.x / 4, piece_col = threadIdx.x % 4 * 8;
  const T* const matrix = matrix_of<T>(a, rows, tile);
  const T* const weight = matrix + std::size_t{first_row + load_row} * a.cols + piece_col;
  const T* const x = static_cast<const T*>(a.x) + std::size_t{first_token + load_row} * a.cols + piece_col;
  const T* scattered[x_loads];
  if constexpr (Rows::scattered)
    find_rows(scattered, rows, tile, static_cast<const T*>(a.x) + piece_col, a.cols, first_token + load_row, load_rows);
  const std::uint32_t n_blocks = (a.cols + block_columns - 1) / block_columns;
  const std::uint32_t segment_blocks = segment_columns(a.cols) / block_columns;

  const auto load = [&](std::uint32_t block) {
    if (block < n_blocks) {
      uint4* to = stages + block % n_stages * stage_pieces + threadIdx.x;
      const std::uint32_t col = block * block_columns;
      const bool inside = col + piece_col < a.cols;
#pragma unroll
      for (int i = 0; i < w_loads; ++i) {
        const bool valid = inside && own.valid(load_row + i * load_rows);
        const T* const row = Rows::gated ? matrix + std::size_t{own.row(load_row + i * load_rows)} * a.cols + piece_col
                                         : weight + std::size_t{unsigned(i * load_rows)} * a.cols;
        copy_16_async(shared_address(to + i * n_threads), valid ? row + col : a.weight, valid);
      }
#pragma unroll
      for (int j = 0; j < x_loads; ++j) {
        const bool valid = inside && first_token + load_row + j * load_rows < n;
        const T* const row = Rows::scattered ? scattered[j] : x + std::size_t{unsigned(j * load_rows)} * a.cols;
        copy_16_async(shared_address(to + BM * 4 + j * n_threads), valid ? row + col : a.x, valid);
      }
    }
    commit_copies();
  };

  float sums[WM / 16][WN / 8][4] = {};
  float* const done = reinterpret_cast<float*>(stages + n_stages * stage_pieces) + threadIdx.x;
  const auto add_done = [&] {
#pragma unroll
    for (int e = 0; e < WM / 16 * (WN / 8) * 4; ++e) {
      float& sum = sums[e / (WN / 8 * 4)][e / 4 % (WN / 8)][e % 4];
      sum = __fadd_rn(done[e * n_threads], sum);
    }
  };
#pragma unroll
  for (int s = 0; s < n_stages - 1; ++s) load(static_cast<std::uint32_t>(s));
  std::uint32_t left_in_segment = segment_blocks;
  bool first_segment = true;
  for (std::uint32_t block = 0; block < n_blocks; ++block) {
    if (left_in_segment == 0) {  // a segment has ended: put it away and begin the next at zero
      if (!first_segment) add_done();
#pragma unroll
      for (int e = 0; e < WM / 16 * (WN / 8) * 4; ++e) {
        float& sum = sums[e / (WN / 8 * 4)][e / 4 % (WN / 8)][e % 4];
        done[e * n_threads] = sum;
        sum = 0;
      }
      first_segment = false;
      left_in_segment = segment_blocks;
    }
    --left_in_segment;
    wait_copies<n_stages - 2>();
    __syncthreads();  // this block's pieces are there for all, and all are done with those of the block before
    load(block + n_stages - 1);
    const uint4* from = stages + block % n_stages * stage_pieces + lane;  // 8 rows of 64 bytes: no bank conflicts
    uint4 tokens[WN / 8];
#pragma unroll
    for (int j = 0; j < WN / 8; ++j) tokens[j] = from[(BM + warp_token + 8 * j) * 4];
#pragma unroll
    for (int i = 0; i < WM / 16; ++i) {
      const uint4 low = from[(warp_row + 16 * i) * 4], high = from[(warp_row + 16 * i + 8) * 4];
#pragma unroll
      for (int j = 0; j < WN / 8; ++j) multiply_block<T>(sums[i][j], low, high, tokens[j]);
    }
  }
  if (!first_segment) add_done();
  wait_copies<0>();
  __syncthreads();

  // Through shared memory, so that stores run along the rows of y.
  constexpr int stride = BM + 4;
  float* const out = reinterpret_cast<float*>(stages);
  const std::uint32_t g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < WM / 16; ++i)
#pragma unroll
    for (int j = 0; j < WN / 8; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        out[(warp_token + 8 * j + 2 * t + c % 2) * stride + warp_row + 16 * i + g + c / 2 * 8] = sums[i][j][c];
  __syncthreads();
  constexpr int n_out = block_rows<Rows, BM>::n_out;
  for (std::uint32_t o = threadIdx.x; o < BN * n_out; o += n_threads) {
    const std::uint32_t token = o / n_out, row = o % n_out;
    if (first_token + token < n && first_row + row < own.n_rows)
      put<Y>(a, first_token + token, first_row + row,
             finished(rows, row, [&](std::uint32_t r) { return out[token * stride + r]; }));
  }
}

}  // namespace troupe::kernels::gpu::matmul_kernels
