#pragma once
#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/matmul.hpp"
#include "kernels/gpu/quant.hpp"

/// A mixture of experts: which rows of a step go to which expert, products by expert, and their sum for each token.
///
/// A token has n_used rows. Rows of one expert lie side by side, experts ascending, tokens ascending within; products
/// run over tiles, runs of rows of one expert. What a token gets depends on its own logits and the weights only.
namespace troupe::kernels::gpu {

/// Rows [first, end) of one expert.
struct alignas(16) expert_tile {
  std::uint32_t expert, first, end, unused;
};

/// The routing of a layer's step, on the device.
struct expert_routes {
  std::uint32_t n_experts, n_used;
  std::uint32_t* counts;   ///< [n_experts] rows of each; zeros before and after a layer
  std::uint32_t* n_rows;   ///< [1]
  std::uint32_t* n_tiles;  ///< [1]
  expert_tile* tiles;      ///< [expert_tiles()]
  std::uint32_t* tokens;   ///< [max_tokens * n_used] the token of a row
  std::uint32_t* chosen;   ///< [max_tokens][n_used] experts, ascending
  std::uint32_t* rows;     ///< the same: the row at each of them
  float* shares;           ///< the same: what it counts
};

std::uint64_t expert_routes_bytes(std::uint32_t n_experts, std::uint32_t n_used, std::uint32_t max_tokens);
/// Views of `memory`, expert_routes_bytes() long, aligned to 16; zeros at first.
expert_routes view_expert_routes(void* memory, std::uint32_t n_experts, std::uint32_t n_used, std::uint32_t max_tokens);

/// How many rows a tile has at most, which the products of a step must be told alike. Few where experts have few.
std::uint32_t expert_tile_rows(dtype, std::uint32_t n_experts, std::uint32_t n_used, std::uint32_t max_tokens);
/// How many tiles a step may have.
std::uint32_t expert_tiles(std::uint32_t n_experts, std::uint32_t n_used, std::uint32_t max_tokens,
                           std::uint32_t tile_rows);

/// Chooses each token's experts and lays out rows and tiles. logits [n, n_experts] f32. Of equal logits the lower
/// expert is chosen; NaN counts as -inf. renormalized: a token's shares add up to 1; else they are those of a softmax
/// over all experts. n_experts up to 1024. Formula: transformers' Mixtral and Qwen3-MoE.
cudaError_t route_experts(const float* logits, bool renormalized, const expert_routes&, std::uint32_t tile_rows,
                          const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t);

/// As `matmul` for all rows, each with its expert's matrix: weight is that of expert 0, the next `stride` bytes on.
/// A row of y has the bits that `matmul` gives it. gathers: row r of y comes from row tokens[r] of x, else from row r.
/// y_type `type`, no accumulation; tile_rows as expert_tile_rows says.
template <class Product>
struct expert_product {
  Product product;
  std::uint64_t stride;
  expert_routes routes;
  bool gathers;
  std::uint32_t tile_rows;
};
using expert_matmul_args = expert_product<matmul_args>;
cudaError_t expert_matmul(const expert_matmul_args&, std::uint32_t max_tokens, cudaStream_t);

/// The first half of a gated MLP in one: a matrix is [gate rows | up rows], product.rows together, and
/// y[r][i] = act(gate_i x) * (up_i x) for i < rows / 2, rounded once. f16 and bf16.
bool can_gate_experts(const matmul_args&);
cudaError_t gated_expert_matmul(const expert_matmul_args&, gate_activation, std::uint32_t max_tokens, cudaStream_t);

/// expert_matmul with packed matrices, as `packed_matmul`. A tile's weights are read once for 16 rows.
using packed_expert_matmul_args = expert_product<packed_matmul_args>;
cudaError_t packed_expert_matmul(const packed_expert_matmul_args&, std::uint32_t max_tokens, cudaStream_t);

/// out[t] = (accumulate: out[t] +) sum over a token's experts, ascending, of share * y[row]: y [rows, hidden] of
/// `type`, out [n, hidden] f32. hidden a multiple of 8. Ends the layer: the routing's counts are zeros again.
cudaError_t combine_experts(const void* y, dtype type, const expert_routes&, std::uint32_t hidden, float* out,
                            bool accumulate, const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t);

}  // namespace troupe::kernels::gpu
