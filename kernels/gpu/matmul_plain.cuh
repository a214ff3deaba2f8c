#pragma once
#include "kernels/gpu/matmul_rows.cuh"

/// Products in f32, by fused multiply-adds.
namespace troupe::kernels::gpu::matmul_kernels {

/// f32: 64 weight rows by BN tokens, 16 columns at a time; a thread has TR rows and TN tokens.
template <int BN, int TR, int TN, class Rows>
__global__ __launch_bounds__(256) void plain_kernel(const matmul_args a, const Rows rows) {
  constexpr int BM = 64, BK = 16, row_threads = BM / TR;
  constexpr int w_loads = BM * BK / 256, x_loads = (BN * BK + 255) / 256;
  static_assert(row_threads * (BN / TN) == 256);
  __shared__ float w[BK][BM + 1], x[BK][BN + 1];
  begin<Rows>();
  const token_tile tile = rows.tile(blockIdx.x, BN);
  const std::uint32_t n = tile.end, first_token = tile.first, first_row = blockIdx.y * BM;
  if (first_token >= n) return;
  const std::uint32_t k = threadIdx.x % BK, load_row = threadIdx.x / BK;
  const std::uint32_t row = threadIdx.x % row_threads, token = threadIdx.x / row_threads;
  const float* const weight = matrix_of<float>(a, rows, tile);
  const float* const tokens = static_cast<const float*>(a.x);
  const float* scattered[x_loads];
  if constexpr (Rows::scattered) find_rows(scattered, rows, tile, tokens, a.cols, first_token + load_row, 16);
  float next_w[w_loads], next_x[x_loads];
  const auto load = [&](std::uint32_t col) {
#pragma unroll
    for (int i = 0; i < w_loads; ++i) {
      const std::uint32_t r = first_row + load_row + 16 * i;
      next_w[i] = r < a.rows && col + k < a.cols ? weight[std::size_t{r} * a.cols + col + k] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < x_loads; ++j) {
      const std::uint32_t r = load_row + 16 * j;
      if (r < BN && first_token + r < n && col + k < a.cols) {
        const float* const row = Rows::scattered ? scattered[j] : tokens + std::size_t{first_token + r} * a.cols;
        next_x[j] = row[col + k];
      } else {
        next_x[j] = 0.0f;
      }
    }
  };
  float sums[TR][TN] = {}, done[TR][TN] = {};
  const std::uint32_t segment = segment_columns(a.cols);
  load(0);
  for (std::uint32_t col = 0; col < a.cols; col += BK) {
    if (col != 0 && col % segment == 0) {
#pragma unroll
      for (int e = 0; e < TR * TN; ++e) {
        float& sum = sums[e / TN][e % TN];
        float& total = done[e / TN][e % TN];
        total = col == segment ? sum : __fadd_rn(total, sum);
        sum = 0;
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < w_loads; ++i) w[k][load_row + 16 * i] = next_w[i];
#pragma unroll
    for (int j = 0; j < x_loads; ++j)
      if (load_row + 16 * j < BN) x[k][load_row + 16 * j] = next_x[j];
    __syncthreads();
    if (col + BK < a.cols) load(col + BK);
#pragma unroll
    for (int i = 0; i < BK; ++i) {
      float wv[TR], xv[TN];
#pragma unroll
      for (int r = 0; r < TR; ++r) wv[r] = w[i][row + r * row_threads];
#pragma unroll
      for (int c = 0; c < TN; ++c) xv[c] = x[i][token + c * (BN / TN)];
#pragma unroll
      for (int r = 0; r < TR; ++r)
#pragma unroll
        for (int c = 0; c < TN; ++c) sums[r][c] = __fmaf_rn(wv[r], xv[c], sums[r][c]);
    }
  }
#pragma unroll
  for (int r = 0; r < TR; ++r)
#pragma unroll
    for (int c = 0; c < TN; ++c) {
      const std::uint32_t to_row = first_row + row + r * row_threads, to_token = first_token + token + c * (BN / TN);
      if (to_row >= a.rows || to_token >= n) continue;
      put<float>(a, to_token, to_row, a.cols > segment ? __fadd_rn(done[r][c], sums[r][c]) : sums[r][c]);
    }
}

}  // namespace troupe::kernels::gpu::matmul_kernels
