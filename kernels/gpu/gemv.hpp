#pragma once
#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/matmul.hpp"

/// Products of unpacked f16 or bf16 weights with very few tokens, where reading the weights is all that counts.
namespace troupe::kernels::gpu {

inline constexpr std::uint32_t gemv_most_tokens = 4;
/// Loads of 16 bytes that a lane has on their way; which is faster depends on the matrix and the card.
enum class gemv_depth : std::uint8_t { two = 2, four = 4 };

/// Whether `gemv` takes this product: f16 or bf16, cols a multiple of 8, 1, 2 or 4 tokens at most.
bool can_gemv(const matmul_args&, std::uint32_t max_tokens);

/// As `matmul`, but the order of a sum is this kernel's own. A warp per weight row; the first loads are on their way
/// before the kernel before this one has ended. Bytes: the weights; activations come from L1.
cudaError_t gemv(const matmul_args&, gemv_depth, const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t);

/// The first half of a gated MLP in one: weight is [gate rows | up rows], args.rows together, and
/// y[t][i] = act(gate_i x_t) * (up_i x_t) for i < rows / 2, of args.type; f32 in between. No bias.
cudaError_t gemv_gated(const matmul_args&, gate_activation, gemv_depth, const std::uint32_t* n_tokens,
                       std::uint32_t max_tokens, cudaStream_t);

}  // namespace troupe::kernels::gpu
