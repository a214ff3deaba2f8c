#pragma once
#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/experts.hpp"

/// Which rows a block of a product computes, from which rows of x and with which matrix: the same kernels serve a
/// step's tokens and the rows of its experts.
namespace troupe::kernels::gpu {

/// Rows [first, end) of y, of which a block has its tile's size at most; `matrix` of several that lie in a row.
struct token_tile {
  std::uint32_t first, end, matrix;
};

/// Row r is that of token r.
struct step_rows {
  static constexpr bool scattered = false, gated = false;
  const std::uint32_t* n_tokens;

  __device__ token_tile tile(std::uint32_t index, std::uint32_t size) const { return {index * size, *n_tokens, 0}; }
  __device__ std::uint64_t matrix_bytes(const token_tile&) const { return 0; }
  __device__ std::uint32_t source(std::uint32_t row) const { return row; }
};

/// Rows of experts: a tile has one expert's.
struct expert_rows {
  static constexpr bool scattered = true, gated = false;
  const expert_tile* tiles;
  const std::uint32_t* n_tiles;
  const std::uint32_t* tokens;  ///< null: row r of x
  std::uint64_t stride;         ///< bytes from one expert's matrix to the next

  __device__ token_tile tile(std::uint32_t index, std::uint32_t) const {
    const uint4 t = *reinterpret_cast<const uint4*>(tiles + index);
    return index < *n_tiles ? token_tile{t.y, t.z, t.x} : token_tile{0, 0, 0};
  }
  __device__ std::uint64_t matrix_bytes(const token_tile& t) const { return t.matrix * stride; }
  __device__ std::uint32_t source(std::uint32_t row) const { return tokens != nullptr ? tokens[row] : row; }
};

/// The same with matrices of which the lower half are gates: y = act(gate x) * (up x), half as many columns.
struct gated_expert_rows : expert_rows {
  static constexpr bool gated = true;
  gate_activation activation;
};

/// As a launcher's arguments say it.
template <class Product>
expert_rows rows_of(const expert_product<Product>& a) {
  return {a.routes.tiles, a.routes.n_tiles, a.gathers ? a.routes.tokens : nullptr, a.stride};
}

}  // namespace troupe::kernels::gpu
