#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/packed_fragment.cuh"
#include "kernels/gpu/token_rows.cuh"

namespace troupe::kernels::gpu {
namespace {

using namespace packed;

constexpr std::uint32_t max_warps = 8;

/// Writes or adds one element of y.
__device__ void write(const packed_matmul_args& a, std::uint32_t token, std::uint32_t row, float value) {
  const std::uint64_t i = std::uint64_t{token} * a.ld_y + row;
  if (a.y_type == dtype::f32) {
    float* y = static_cast<float*>(a.y) + i;
    *y = a.accumulate ? *y + value : value;
  } else if (a.y_type == dtype::f16) {
    static_cast<__half*>(a.y)[i] = element<__half>::put(value);
  } else {
    static_cast<__nv_bfloat16*>(a.y)[i] = element<__nv_bfloat16>::put(value);
  }
}

/// The matrix of an expert's tile.
template <class Rows>
__device__ packed_weight matrix_of(packed_weight w, const Rows& rows, const token_tile& tile) {
  w.data += rows.matrix_bytes(tile);
  return w;
}

/// A block makes the 16 rows of one tile of the matrix, for the tokens of one tile of theirs (all tokens of a step are
/// one), 8 n_tiles of them per pass over the rows. Warp w takes records w, w + W, ...
/// of the tile and the sums of the W warps are added in order; W follows from the shape. So the sum of an element is
/// the same for every number of tokens and every n_tiles. Bytes: the tile's records once, x once per block (from L1:
/// blocks of an SM share it), 16 * n results.
template <class Form, class T, int n_tiles, class Rows>
__global__ void __launch_bounds__(32 * max_warps, n_tiles == 1 ? 3 : 2)
    packed_matmul_kernel(packed_matmul_args a, const Rows rows) {
  constexpr int tokens = 8 * n_tiles, stride = 20;  // of a token's 16 sums: no two lanes of a store in one bank
  __shared__ float partial[max_warps][tokens][stride];
  const std::uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
  const std::uint32_t cols = a.weight.cols, n_records = chunks<Form>(cols);
  const std::byte* records = a.weight.data + record_offset<Form>(blockIdx.x, 0, cols);
  token_tile tile{};
  if constexpr (Rows::scattered) {
    let_next_start();
    wait_for_previous();
    tile = rows.tile(blockIdx.y, 0);
    if (tile.first >= tile.end) return;
    a.weight = matrix_of(a.weight, rows, tile);
    records += rows.matrix_bytes(tile);
  }

  constexpr int in_flight = fragment<Form>::in_flight;
  fragment<Form> f[in_flight];
  const auto load = [&](std::uint32_t record) {
#pragma unroll
    for (int i = 0; i < in_flight; ++i)
      if (const std::uint32_t r = record + i * n_warps; r < n_records)
        f[i].load(records + std::uint64_t{r} * Form::bytes, lane);
  };

  if constexpr (!Rows::scattered) let_next_start();
  load(warp);  // weights never change in a step
  if constexpr (!Rows::scattered) {
    wait_for_previous();
    tile = rows.tile(0, 0);
  }
  const std::uint32_t n = tile.end;
  std::uint32_t first = tile.first;
  do {
    if (first > tile.first) load(warp);
    float acc[n_tiles][4] = {};
    token_source<T, n_tiles> x;
    x.cols = cols;
#pragma unroll
    for (int i = 0; i < n_tiles; ++i) {
      const std::uint32_t token = first + 8 * i + lane / 4;
      x.row[i] = token < n ? static_cast<const T*>(a.x) + std::uint64_t{rows.source(token)} * cols : nullptr;
    }
    for (std::uint32_t record = warp;;) {
#pragma unroll
      for (int i = 0; i < in_flight; ++i)
        if (const std::uint32_t r = record + i * n_warps; r < n_records)
          f[i].template multiply<T, n_tiles>(x, r * Form::cols, lane, acc);
      record += in_flight * n_warps;
      if (record >= n_records) break;
      load(record);
    }
    const std::uint32_t g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < n_tiles; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) partial[warp][8 * i + 2 * t + k % 2][g + 8 * (k / 2)] = acc[i][k];
    __syncthreads();
    for (std::uint32_t i = threadIdx.x; i < tokens * tile_rows; i += blockDim.x) {
      const std::uint32_t token = i / tile_rows, r = i % tile_rows, row = blockIdx.x * tile_rows + r;
      if (first + token >= n || row >= a.weight.rows) continue;
      float sum = partial[0][token][r];
      for (std::uint32_t w = 1; w < n_warps; ++w) sum += partial[w][token][r];
      if constexpr (Form::form == packed_form::f8) {
        const auto* scales = reinterpret_cast<const float*>(a.weight.data + row_scales_offset(a.weight.rows, cols));
        sum *= codes<T>::e4m3_factor * scales[row];
      }
      write(a, first + token, row, sum);
    }
    __syncthreads();
    first += tokens;
  } while (first < n);
}

/// For x in f32, where exactness counts and not speed: a warp per row, runs of 8 columns dealt to the lanes in turn.
template <class Form, class Rows>
__global__ void __launch_bounds__(256) packed_matmul_f32_kernel(packed_matmul_args a, const Rows rows) {
  constexpr int tokens = 8;
  const std::uint32_t row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= a.weight.rows) return;  // whole warps
  const token_tile tile = rows.tile(blockIdx.y, 0);
  const packed_weight matrix = matrix_of(a.weight, rows, tile);
  const std::uint32_t n = tile.end, cols = a.weight.cols;
  for (std::uint32_t first = tile.first; first < n; first += tokens) {
    float acc[tokens] = {};
    for (std::uint32_t run = lane; run < cols / 8; run += 32) {
      float w[8];
#pragma unroll
      for (std::uint32_t i = 0; i < 8; ++i) w[i] = weight_at<Form>(matrix, row, 8 * run + i);
#pragma unroll
      for (int t = 0; t < tokens; ++t) {
        if (first + t >= n) continue;
        const float* x = static_cast<const float*>(a.x) + std::uint64_t{rows.source(first + t)} * cols + 8 * run;
#pragma unroll
        for (int i = 0; i < 8; ++i) acc[t] = fmaf(w[i], x[i], acc[t]);
      }
    }
#pragma unroll
    for (int t = 0; t < tokens; ++t) {
      const float sum = warp_sum(acc[t]);
      if (lane == 0 && first + t < n) write(a, first + t, row, sum);
    }
  }
}

/// grid.y = n_row_tiles: tiles of tokens, as `rows` has them.
template <class Form, class T, class Rows>
cudaError_t launch_mma(const packed_matmul_args& a, const Rows& rows, std::uint32_t n_row_tiles,
                       std::uint32_t most_rows, cudaStream_t stream) {
  const std::uint32_t records = chunks<Form>(a.weight.cols), warps = records < max_warps ? records : max_warps;
  const dim3 grid(tiles(a.weight.rows), n_row_tiles);
  const auto kernel = most_rows <= 8 ? packed_matmul_kernel<Form, T, 1, Rows> : packed_matmul_kernel<Form, T, 2, Rows>;
  return launch_dependent(kernel, grid, 32 * warps, 0, stream, a, rows);
}

/// most_rows: of a tile of tokens.
template <class Rows>
cudaError_t launch(const packed_matmul_args& a, const Rows& rows, std::uint32_t n_row_tiles, std::uint32_t most_rows,
                   cudaStream_t stream) {
  return with_form(a.weight.form, cudaErrorInvalidValue, [&](auto f) {
    using Form = decltype(f);
    if (a.weight.cols % (Form::cols == 256 ? 256 : 32) != 0) return cudaErrorInvalidValue;
    if (a.type == dtype::f16) return launch_mma<Form, __half>(a, rows, n_row_tiles, most_rows, stream);
    if (a.type == dtype::bf16) return launch_mma<Form, __nv_bfloat16>(a, rows, n_row_tiles, most_rows, stream);
    if (a.type != dtype::f32) return cudaErrorInvalidValue;
    const dim3 grid((a.weight.rows + 7) / 8, n_row_tiles);
    return launch_kernel(packed_matmul_f32_kernel<Form, Rows>, grid, 256, 0, stream, a, rows);
  });
}

}  // namespace

cudaError_t packed_matmul(const packed_matmul_args& a, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                          cudaStream_t stream) {
  if (max_tokens == 0 || a.weight.rows == 0) return cudaSuccess;
  if (a.y_type != dtype::f32 && (a.y_type != a.type || a.accumulate)) return cudaErrorInvalidValue;
  return launch(a, step_rows{n_tokens}, 1, max_tokens, stream);
}

cudaError_t packed_expert_matmul(const packed_expert_matmul_args& e, std::uint32_t max_tokens, cudaStream_t stream) {
  const packed_matmul_args& a = e.product;
  if (max_tokens == 0 || a.weight.rows == 0) return cudaSuccess;
  if (a.y_type != a.type || a.accumulate) return cudaErrorInvalidValue;
  const std::uint32_t n_tiles = expert_tiles(e.routes.n_experts, e.routes.n_used, max_tokens, e.tile_rows);
  return launch(a, rows_of(e), n_tiles, e.tile_rows, stream);
}

}  // namespace troupe::kernels::gpu
