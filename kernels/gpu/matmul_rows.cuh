#pragma once
#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/gate.cuh"
#include "kernels/gpu/matmul.hpp"
#include "kernels/gpu/matmul_rule.hpp"
#include "kernels/gpu/token_rows.cuh"

/// What the kernels of matmul.cu do alike: which rows of the matrix and of x a block has, and what becomes of a sum.
namespace troupe::kernels::gpu::matmul_kernels {

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
    return activate(rows.activation, gate) * up;
  } else {
    return sum(o);
  }
}

}  // namespace troupe::kernels::gpu::matmul_kernels
