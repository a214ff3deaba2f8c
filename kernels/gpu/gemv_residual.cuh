#pragma once
#include "kernels/gpu/exchange.cuh"
#include "kernels/gpu/gemv_rows.cuh"

/// What ends a product that belongs to the residual stream, whatever its rows are made of.
namespace troupe::kernels::gpu {

/// A row of a matrix. Others look alike: `start` before what an earlier kernel wrote can be read, then `sum`, this
/// lane's part.
template <int depth>
struct dense_row {
  struct arguments {};
  const gemv_residual_args& a;
  row_stream<depth> w[1];
  __device__ dense_row(const gemv_residual_args& a_, const arguments&) : a(a_) {}
  __device__ void start(std::uint32_t row) {
    w[0].packets = a.cols / 8;
    w[0].row = static_cast<const uint4*>(a.weight) + std::uint64_t{row} * w[0].packets;
    w[0].load(0);
  }
  __device__ float sum(std::uint32_t) {
    float product[1][1] = {};
    add_rows<__nv_bfloat16>(w, static_cast<const uint4*>(a.x), a.cols / 8, 1, product);
    return product[0][0];
  }
};

/// Warp w: row w. Block b: the squares of rows 4 b to 4 b + 3. Grouped: lane q has rank q's part of the row.
template <class Row, bool grouped>
__global__ void __launch_bounds__(32 * gemv_warps)
    residual_kernel(const __grid_constant__ gemv_residual_args a, const __grid_constant__ typename Row::arguments more,
                    const std::uint32_t* n_tokens) {
  using bf16 = __nv_bfloat16;
  __shared__ float squares[gemv_warps];
  const std::uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x * gemv_warps + warp;
  let_next_start();
  Row w(a, more);
  w.start(row);
  const float weight = a.norm_weight[row];
  wait_for_previous();
  if (*n_tokens == 0) return;
  const float before = a.h[row];
  float h;
  if constexpr (grouped) {
    const exchange_end end(a.group);
    const std::uint32_t rank = a.group.memory.rank, size = a.group.memory.size;
    float part = warp_sum(w.sum(row));
    if (lane < size && lane != rank) {
      end.send(lane, row, part);
      part = end.receive(lane, row);
    }
    __syncwarp();
    float sum = __shfl_sync(0xffffffffu, part, 0);
    for (std::uint32_t q = 1; q < size; ++q) sum += __shfl_sync(0xffffffffu, part, static_cast<int>(q));
    h = before + sum;
  } else {
    h = before + warp_sum(w.sum(row));
  }
  if (lane == 0) {
    a.h[row] = h;
    static_cast<bf16*>(a.weighted)[row] = element<bf16>::put(h * weight);
    squares[warp] = h * h;
  }
  __syncthreads();
  if (threadIdx.x == 0) a.squares[blockIdx.x] = (squares[0] + squares[1]) + (squares[2] + squares[3]);
}

template <class Row>
cudaError_t launch_residual(const gemv_residual_args& a, const typename Row::arguments& more,
                            const std::uint32_t* n_tokens, cudaStream_t stream) {
  const exchange_memory& m = a.group.memory;
  if (a.cols % 8 != 0 || a.rows % gemv_warps != 0) return cudaErrorInvalidValue;
  if (m.size > 1 && (m.size > exchange_memory::most_ranks || a.rows > m.capacity || m.capacity % 4 != 0))
    return cudaErrorInvalidValue;
  const auto kernel = m.size > 1 ? residual_kernel<Row, true> : residual_kernel<Row, false>;
  return launch_dependent(kernel, a.rows / gemv_warps, 32 * gemv_warps, 0, stream, a, more, n_tokens);
}

/// Whether all blocks of a group's kernel have room on a card at once.
template <class Row>
bool residual_fits(std::uint32_t rows, std::uint32_t n_sms) {
  int blocks = 0;
  if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, residual_kernel<Row, true>, 32 * gemv_warps, 0) !=
      cudaSuccess)
    return false;
  return std::uint64_t{static_cast<std::uint32_t>(blocks)} * n_sms >= rows / gemv_warps;
}

}  // namespace troupe::kernels::gpu
