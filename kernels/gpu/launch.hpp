#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/common/dtype.hpp"
#include "kernels/common/floats.hpp"

/// What all launchers of kernels/gpu share.
///
/// A launcher enqueues its kernels on the stream and returns what cudaGetLastError says; it never waits, allocates or
/// copies, so that it may be captured into a graph. Pointers are device pointers unless a name ends in `_host`. Sizes
/// that change from step to step are read on the device (`const std::uint32_t* n`), where a launcher says so: one graph
/// serves every step of its bucket, and what lies beyond the true size is neither read nor written.
///
/// Dims: n_tokens, n_heads, n_kv_heads, head_dim, hidden, ffn, vocab. Matrices are row-major. Activations are of the
/// compute type (`dtype`: f32, f16 or bf16), the residual stream and the logits are f32, sums are f32.
/// Determinism: unless a launcher says otherwise an element of its output depends on its own row, position and weights
/// only, never on how many rows run beside it; no atomics on floats anywhere.
namespace troupe::kernels::gpu {

/// Positions per KV page.
inline constexpr std::uint32_t page_tokens = 16;

}  // namespace troupe::kernels::gpu
