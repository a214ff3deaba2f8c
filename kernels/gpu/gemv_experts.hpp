#pragma once
#include "kernels/gpu/experts.hpp"
#include "kernels/gpu/gemv.hpp"

/// A layer's experts for one token, f16 or bf16, in three kernels: the router and the choice; the first half of every
/// chosen expert's MLP; the second, summed over the experts. No rows are laid out: row j is that of the j-th chosen
/// expert, and of the routes only `chosen` and `shares` are written. Of more tokens several may choose one expert, which
/// these kernels would read once for each.
///
/// Where *n_tokens is 0 nothing is done. The order of a sum is these kernels' own, and none is chosen by timing.
namespace troupe::kernels::gpu {

/// What they take: 16-bit types, hidden and ffn multiples of 8, at most 32 experts a token of up to 1024.
bool can_gemv_experts(dtype, const expert_routes&, std::uint32_t hidden, std::uint32_t ffn);

/// Logits of the router, and route_experts' choice by them; a block per expert, the last one to end chooses.
/// Bytes: n_experts * cols of the weight.
struct expert_router_args {
  const void* weight;  ///< [n_experts, cols] of `type`
  const void* x;       ///< [cols] of `type`
  dtype type;
  std::uint32_t cols;
  rms_scale scale;
  float* logits;  ///< [n_experts], left behind
  bool renormalized;
  expert_routes routes;  ///< counts[0] counts blocks: zero before and after
};
cudaError_t gemv_route(const expert_router_args&, const std::uint32_t* n_tokens, cudaStream_t);

/// A matrix of each expert, the next `stride` bytes on, and what it is for.
struct expert_gemv_args {
  const void* weight;
  std::uint64_t stride;
  const void* x;
  dtype type;
  std::uint32_t rows, cols;
  expert_routes routes;
};

/// y [n_used, rows / 2] of `type` = act(gate x) * (up x), as gated_expert_matmul; x [cols]. Bytes: the matrices.
cudaError_t gemv_gated_experts(const expert_gemv_args&, gate_activation, const rms_scale&, void* y,
                               const std::uint32_t* n_tokens, cudaStream_t);

/// out [rows] f32 = (accumulate: out +) sum over the experts, ascending, of share * (W x); x [n_used, cols]. Bytes: the
/// matrices.
cudaError_t gemv_combine_experts(const expert_gemv_args&, float* out, bool accumulate, const std::uint32_t* n_tokens,
                                 cudaStream_t);

/// gemv_residual with that sum as its product, bf16: of its arguments weight, x and cols are not used.
cudaError_t gemv_residual_experts(const expert_gemv_args&, gemv_residual_args, const std::uint32_t* n_tokens,
                                  cudaStream_t);
bool can_gemv_residual_experts_in_group(std::uint32_t rows, std::uint32_t n_sms);

}  // namespace troupe::kernels::gpu
