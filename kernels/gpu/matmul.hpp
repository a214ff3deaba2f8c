#pragma once
#include "kernels/gpu/launch.hpp"

/// Products with unpacked weights whose result does not depend on how many tokens run together: deterministic mode, and
/// few tokens, where they beat cuBLASLt.
namespace troupe::kernels::gpu {

/// y = x W^T: weight [rows, cols] and x [n, cols] of `type`, y [n, rows] of y_type (f32 or `type`) with leading
/// dimension ld_y in elements, or y += in f32 where `accumulate`. cols a multiple of 8 (of 1 for f32). n = *n_tokens <=
/// max_tokens.
///
/// Every output element is one chain of f32 sums per K segment (matmul_rule.hpp), segments added in order, whatever the
/// tile shape: the result depends on the weight row and the token's row only. f16 and bf16 by mma.sync m16n8k16; f32 by
/// fused multiply-adds.
struct matmul_args {
  const void* weight;
  const void* x;
  dtype type;
  std::uint32_t rows, cols;
  void* y;
  dtype y_type;
  std::uint32_t ld_y;
  bool accumulate;
};
cudaError_t matmul(const matmul_args&, const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t);

}  // namespace troupe::kernels::gpu
