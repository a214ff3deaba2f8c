#include "kernels/gpu/matmul.hpp"

#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/experts.hpp"
#include "kernels/gpu/gate.cuh"
#include "kernels/gpu/matmul_block.cuh"
#include "kernels/gpu/matmul_rule.hpp"
#include "kernels/gpu/token_rows.cuh"

// Three kernels, one rule: an element of y is a sum over segments of K in ascending order, each one chain of tensor
// core products in ascending blocks of 32 columns (f32: of fused multiply-adds). Columns beyond the last are zeros.
//
//   stream  up to 32 tokens: bound by reading the weights. A warp per segment; each lane's pieces pass through a queue
//           of its own in shared memory, so that nobody waits for anybody until the segments are added.
//   tile    more tokens: blocks of rows x tokens, whose pieces the warps of a block share.
//   plain   f32.
//
// Each for the tokens of a step and for the rows of experts (token_rows.cuh).

namespace troupe::kernels::gpu {
namespace {

/// Weights streamed: rows x 64 bytes per block of columns and warp.
constexpr int n_stream_threads = static_cast<int>(max_segments) * 32;

template <class Y>
__device__ void put(const matmul_args& a, std::uint32_t token, std::uint32_t row, float sum) {
  Y* y = static_cast<Y*>(a.y) + std::size_t{token} * a.ld_y + row;
  if constexpr (element<Y>::type == dtype::f32) {
    *y = a.accumulate ? __fadd_rn(*y, sum) : sum;
  } else {
    *y = element<Y>::put(sum);
  }
}

/// Where an expert's rows of x lie: `n` of them, of which a thread loads every `step`th; those beyond the last are not
/// read.
template <class T, int n>
__device__ void find_rows(const T* (&from)[n], const expert_rows& rows, const token_tile& tile, const T* x,
                          std::uint32_t cols, std::uint32_t first, std::uint32_t step) {
#pragma unroll
  for (int j = 0; j < n; ++j) {
    const std::uint32_t row = first + j * step;
    from[j] = x + std::size_t{row < tile.end ? rows.source(row) : 0} * cols;
  }
}

/// The products of experts follow each other without a gap; others are left to the graph.
template <class Rows>
__device__ void begin() {
  if constexpr (Rows::scattered) {
    let_next_start();
    wait_for_previous();
  }
}

template <class T, class Rows>
__device__ const T* matrix_of(const matmul_args& a, const Rows& rows, const token_tile& tile) {
  return reinterpret_cast<const T*>(static_cast<const std::byte*>(a.weight) + rows.matrix_bytes(tile));
}

/// A block's rows of the matrix, `size` of them: with gates, of each sixteen the first eight are gates and the others
/// what they are for, so that both meet in one block.
template <class Rows, int size>
struct block_rows {
  static constexpr int n_out = Rows::gated ? size / 2 : size;  ///< columns of y
  std::uint32_t first_out, n_rows;                             ///< n_rows: of y
  __device__ block_rows(const matmul_args& a, std::uint32_t block)
      : first_out(block * n_out), n_rows(Rows::gated ? a.rows / 2 : a.rows) {}
  /// The column of y that the block's row r is for.
  __device__ std::uint32_t column(std::uint32_t r) const { return first_out + (Rows::gated ? r / 16 * 8 + r % 8 : r); }
  __device__ bool valid(std::uint32_t r) const { return column(r) < n_rows; }
  __device__ std::uint32_t row(std::uint32_t r) const { return column(r) + (Rows::gated && r % 16 >= 8 ? n_rows : 0); }
};

/// Column `o` of a block's part of y, out of what sum(r) says of its row r.
template <class Rows, class Sum>
__device__ float finished(const Rows& rows, std::uint32_t o, const Sum& sum) {
  if constexpr (Rows::gated) {
    const std::uint32_t r = o / 8 * 16 + o % 8;
    const float gate = sum(r), up = sum(r + 8);
    switch (rows.activation) {
      case gate_activation::gelu_tanh:
        return activate<gate_activation::gelu_tanh>(gate) * up;
      case gate_activation::gelu_erf:
        return activate<gate_activation::gelu_erf>(gate) * up;
      case gate_activation::silu:
        break;
    }
    return activate<gate_activation::silu>(gate) * up;
  } else {
    return sum(o);
  }
}

/// Block (i, j): weight rows R i ..., tile j of up to N tokens; warp s: segment s. Bytes moved: R x cols weights and at
/// most N x cols of x per block.
template <class T, class Y, int R, int N, int n_stages, class Rows>
__global__ __launch_bounds__(n_stream_threads) void stream_kernel(const matmul_args a, const Rows rows) {
  constexpr int n_low = R / 8, n_pieces = n_low + N / 8;  // 16-byte pieces per lane and block of columns
  uint4* const queue = dynamic_shared<uint4>();           // [stage][piece][thread]
  begin<Rows>();
  const token_tile tile = rows.tile(blockIdx.y, N);
  const block_rows<Rows, R> own(a, blockIdx.x);
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

struct card {
  int shared_bytes, n_sms;
};
cudaError_t ask(card& c) {
  int device = 0;
  cudaError_t code = cudaGetDevice(&device);
  if (code == cudaSuccess)
    code = cudaDeviceGetAttribute(&c.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (code == cudaSuccess) code = cudaDeviceGetAttribute(&c.n_sms, cudaDevAttrMultiProcessorCount, device);
  return code;
}

constexpr unsigned tiles(std::uint32_t n, std::uint32_t size) { return (n + size - 1) / size; }

template <class Kernel, class Rows>
cudaError_t launch(Kernel kernel, dim3 grid, unsigned threads, int shared_bytes, const matmul_args& a, const Rows& rows,
                   cudaStream_t stream) {
  if (const cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes))
    return code;
  if constexpr (Rows::scattered) {
    return launch_dependent(kernel, grid, threads, static_cast<std::size_t>(shared_bytes), stream, a, rows);
  } else {
    return launch_kernel(kernel, grid, threads, static_cast<std::size_t>(shared_bytes), stream, a, rows);
  }
}

template <class T, class Y, int R, int N, int n_stages, class Rows>
cudaError_t launch_stream(const matmul_args& a, const Rows& rows, unsigned n_tiles, cudaStream_t stream) {
  constexpr int bytes = n_stages * (R / 8 + N / 8) * n_stream_threads * 16;
  static_assert(bytes <= 99 * 1024 && bytes >= static_cast<int>(max_segments) * N * (R + 4) * 4);
  return launch(stream_kernel<T, Y, R, N, n_stages, Rows>,
                dim3(tiles(Rows::gated ? a.rows / 2 : a.rows, block_rows<Rows, R>::n_out), n_tiles), n_stream_threads,
                bytes, a, rows, stream);
}

template <class T, class Y, int BM, int BN, int WM, int WN, int n_stages, class Rows>
cudaError_t launch_tile(const matmul_args& a, const Rows& rows, unsigned n_tiles, cudaStream_t stream) {
  constexpr int bytes = n_stages * (BM + BN) * 64 + BM * BN * 4;
  static_assert(bytes >= BN * (BM + 4) * 4);
  return launch(tile_kernel<T, Y, BM, BN, WM, WN, n_stages, Rows>,
                dim3(n_tiles, tiles(Rows::gated ? a.rows / 2 : a.rows, block_rows<Rows, BM>::n_out)),
                BM / WM * (BN / WN) * 32, bytes, a, rows, stream);
}

/// The kernel for n_tiles tiles of up to tile_rows tokens: 8, 16, 32, 64 or 128.
template <class T, class Y, class Rows>
cudaError_t matmul_mma(const matmul_args& a, const Rows& rows, std::uint32_t tile_rows, unsigned n_tiles,
                       cudaStream_t stream) {
  if (tile_rows == 8) return launch_stream<T, Y, 16, 8, 8>(a, rows, n_tiles, stream);
  // Taller blocks read x less often, lower ones fill the card.
  if (tile_rows == 16)
    return a.rows > 2048 ? launch_stream<T, Y, 32, 16, 4>(a, rows, n_tiles, stream)
                         : launch_stream<T, Y, 16, 16, 6>(a, rows, n_tiles, stream);
  if (tile_rows == 32) return launch_stream<T, Y, 32, 32, 3>(a, rows, n_tiles, stream);
  if (tile_rows == 64) return launch_tile<T, Y, 64, 64, 32, 32, 10>(a, rows, n_tiles, stream);
  if (tile_rows != 128) return cudaErrorInvalidValue;
  card c;
  if (const cudaError_t code = ask(c)) return code;
  return c.shared_bytes >= 112 * 1024 ? launch_tile<T, Y, 128, 128, 64, 64, 3>(a, rows, n_tiles, stream)
                                      : launch_tile<T, Y, 128, 128, 64, 64, 2>(a, rows, n_tiles, stream);
}

cudaError_t matmul_f32(const matmul_args& a, const auto& rows, std::uint32_t tile_rows, unsigned n_tiles,
                       cudaStream_t stream) {
  using Rows = std::remove_cvref_t<decltype(rows)>;
  const dim3 grid(n_tiles, tiles(a.rows, 64));
  return tile_rows == 8 ? launch(plain_kernel<8, 1, 2, Rows>, grid, 256, 0, a, rows, stream)
                        : launch(plain_kernel<64, 4, 4, Rows>, grid, 256, 0, a, rows, stream);
}

/// Tokens of a tile of a step's product.
cudaError_t tile_rows_of(const matmul_args& a, std::uint32_t max_tokens, std::uint32_t& tile_rows) {
  if (a.type == dtype::f32 || max_tokens <= 32) {
    tile_rows = max_tokens <= 8 ? 8 : a.type == dtype::f32 ? 64 : max_tokens <= 16 ? 16 : 32;
    return cudaSuccess;
  }
  card c;
  if (const cudaError_t code = ask(c)) return code;
  tile_rows = tiles(a.rows, 128) * tiles(max_tokens, 128) < static_cast<unsigned>(c.n_sms) ? 64 : 128;
  return cudaSuccess;
}

}  // namespace

cudaError_t matmul(const matmul_args& a, const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t stream) {
  if (max_tokens == 0 || a.rows == 0) return cudaSuccess;
  if (a.cols == 0 || (a.type != dtype::f32 && a.cols % 8)) return cudaErrorInvalidValue;
  std::uint32_t tile_rows = 0;
  if (const cudaError_t code = tile_rows_of(a, max_tokens, tile_rows)) return code;
  const unsigned n_tiles = tiles(max_tokens, tile_rows);
  const step_rows rows{n_tokens};
  const auto of_type = [&](auto x) {
    using T = decltype(x);
    if (a.y_type == dtype::f32) return matmul_mma<T, float>(a, rows, tile_rows, n_tiles, stream);
    if (a.y_type == a.type && !a.accumulate) return matmul_mma<T, T>(a, rows, tile_rows, n_tiles, stream);
    return cudaErrorInvalidValue;
  };
  if (a.type == dtype::f16) return of_type(__half{});
  if (a.type == dtype::bf16) return of_type(__nv_bfloat16{});
  if (a.type != dtype::f32 || a.y_type != dtype::f32) return cudaErrorInvalidValue;
  return matmul_f32(a, rows, tile_rows, n_tiles, stream);
}

cudaError_t expert_matmul(const expert_matmul_args& e, std::uint32_t max_tokens, cudaStream_t stream) {
  const matmul_args& a = e.product;
  if (max_tokens == 0 || a.rows == 0) return cudaSuccess;
  if (a.cols == 0 || (a.type != dtype::f32 && a.cols % 8) || a.y_type != a.type || a.accumulate)
    return cudaErrorInvalidValue;
  const unsigned n_tiles = expert_tiles(e.routes.n_experts, e.routes.n_used, max_tokens, e.tile_rows);
  const expert_rows rows = rows_of(e);
  return with_element(a.type, [&](auto x) {
    using T = decltype(x);
    if constexpr (std::is_same_v<T, float>)
      return matmul_f32(a, rows, e.tile_rows, n_tiles, stream);
    else
      return matmul_mma<T, T>(a, rows, e.tile_rows, n_tiles, stream);
  });
}

bool can_gate_experts(const matmul_args& a) {
  return (a.type == dtype::f16 || a.type == dtype::bf16) && a.y_type == a.type && !a.accumulate && a.cols > 0 &&
         a.cols % 8 == 0 && a.rows % 2 == 0;
}

cudaError_t gated_expert_matmul(const expert_matmul_args& e, gate_activation activation, std::uint32_t max_tokens,
                                cudaStream_t stream) {
  const matmul_args& a = e.product;
  if (max_tokens == 0 || a.rows == 0) return cudaSuccess;
  if (!can_gate_experts(a)) return cudaErrorInvalidValue;
  const unsigned n_tiles = expert_tiles(e.routes.n_experts, e.routes.n_used, max_tokens, e.tile_rows);
  const gated_expert_rows rows{rows_of(e), activation};
  return with_element(a.type, [&](auto x) {
    using T = decltype(x);
    if constexpr (std::is_same_v<T, float>)
      return cudaErrorInvalidValue;
    else
      return matmul_mma<T, T>(a, rows, e.tile_rows, n_tiles, stream);
  });
}

}  // namespace troupe::kernels::gpu
