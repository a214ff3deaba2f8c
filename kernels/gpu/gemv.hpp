#pragma once
#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/exchange.hpp"
#include "kernels/gpu/matmul.hpp"

/// Products of unpacked f16 or bf16 weights with very few tokens, where reading the weights is all that counts.
namespace troupe::kernels::gpu {

inline constexpr std::uint32_t gemv_most_tokens = 4;
/// Loads of 16 bytes that a lane has on their way; which is faster depends on the matrix and the card. Eight: one token
/// only.
enum class gemv_depth : std::uint8_t { two = 2, four = 4, eight = 8 };

/// Whether `gemv` takes this product: f16 or bf16, cols a multiple of 8, 1, 2 or 4 tokens at most.
bool can_gemv(const matmul_args&, gemv_depth, std::uint32_t max_tokens);

/// An activation x that its producer left undivided by its root mean square: x / sqrt(sum of squares / cols + eps).
struct rms_scale {
  const float* squares = nullptr;  ///< [n_squares], parts of the sum; null: x is as it should be
  std::uint32_t n_squares = 0;     ///< a multiple of 4
  float eps = 0;
};

/// As `matmul`, but the order of a sum is this kernel's own. A warp per weight row; the first loads are on their way
/// before the kernel before this one has ended. Bytes: the weights; activations come from L1. A scale: one token.
cudaError_t gemv(const matmul_args&, const rms_scale&, gemv_depth, const std::uint32_t* n_tokens,
                 std::uint32_t max_tokens, cudaStream_t);

/// The first half of a gated MLP in one: weight is [gate rows | up rows], args.rows together, and
/// y[t][i] = act(gate_i x_t) * (up_i x_t) for i < rows / 2, of args.type; f32 in between. No bias. A scale: one token.
cudaError_t gemv_gated(const matmul_args&, gate_activation, const rms_scale&, gemv_depth, const std::uint32_t* n_tokens,
                       std::uint32_t max_tokens, cudaStream_t);

// A layer for one token, bf16 all through: what stands between its products is done where a product ends, so that a
// layer takes five kernels instead of eight. An RMSNorm between two products is taken apart: the first one leaves its
// result times the norm's weight, and sums of squares; the second divides its own results. Nothing is done where
// *n_tokens is 0.

/// h [rows] f32 += W x; weighted [rows] = h * norm_weight, rounded; squares [rows / 4]: of four rows each. rows a
/// multiple of 4. In a group W x is this rank's part of what is added, the sum over all ranks in their order; each row
/// is sent as soon as it is there.
struct gemv_residual_args {
  const void* weight;
  const void* x;  ///< [cols]
  std::uint32_t rows, cols;
  float* h;
  const float* norm_weight;
  void* weighted;
  float* squares;
  exchange_call group{};
};
/// Whether all blocks of it have room on a card at once, as those that wait for others must.
bool can_gemv_residual_in_group(std::uint32_t rows, gemv_depth, std::uint32_t n_sms);
cudaError_t gemv_residual(const gemv_residual_args&, gemv_depth, const std::uint32_t* n_tokens, cudaStream_t);

/// Queries, keys and values of the token, then what rope_and_store does with them; rope.qkv takes the queries only, and
/// they are rounded once.
struct gemv_qkv_args {
  const void* weight;  ///< [(n_heads + 2 * n_kv_heads) * head_dim, cols]
  const void* x;       ///< [cols]
  std::uint32_t cols;
  rms_scale scale;
  rope_store_args rope;
};
/// Whether it can: bf16, whole heads rotated, no norm of heads, no scales in the cache.
bool can_gemv_qkv(const rope_store_args&);
cudaError_t gemv_qkv(const gemv_qkv_args&, gemv_depth, const std::uint32_t* n_tokens, cudaStream_t);

}  // namespace troupe::kernels::gpu
