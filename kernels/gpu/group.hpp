#pragma once
#include "kernels/gpu/launch.hpp"

/// What ranks that share a model do beside NCCL's collectives.
namespace troupe::kernels::gpu {

/// h[i] += the sum over r < size of parts[r * stride + i], r ascending, for i < n; f32, n and stride multiples of 4.
/// The order is fixed, where an all-reduce's may depend on n. Bytes: 4 * n * (size + 2).
cudaError_t add_parts(float* h, const float* parts, std::uint32_t size, std::uint64_t stride, std::uint64_t n,
                      cudaStream_t);

/// How a row of logits is divided: rank r holds columns [begin[r], begin[r + 1]).
struct vocab_parts {
  static constexpr std::uint32_t most = 64;
  std::uint32_t size, ld;  ///< ld: columns between rows of a part, at least the widest
  std::uint32_t begin[most + 1];
};
/// out[t][begin[r] + i] = parts[(r * n_rows + t) * ld + i] for t < n_rows: the parts [size][n_rows][ld] that an
/// all-gather leaves, as rows of vocab = begin[size] columns, f32.
cudaError_t join_logits(const vocab_parts&, const float* parts, float* out, std::uint32_t n_rows, cudaStream_t);

}  // namespace troupe::kernels::gpu
