#pragma once
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "kernels/common/dtype.hpp"
#include "kernels/gpu/dense.hpp"
#include "src/base/ids.hpp"
#include "src/model/shard.hpp"
#include "src/model/token_mask.hpp"

namespace troupe::gpu {

/// Of activations and unquantized weights, in f32, f16 or bf16.
constexpr std::uint64_t element_bytes(kernels::dtype t) { return t == kernels::dtype::f32 ? 4 : 2; }

enum class quantization : std::uint8_t { none, int8, int4, fp8 };  ///< of linear layers' unquantized weights, at load

struct gpu_options {
  int device = 0;
  model::group_place place;                       ///< among tensor-parallel ranks
  kernels::dtype compute = kernels::dtype::bf16;  ///< f32, f16 or bf16: activations and unquantized weights
  kernels::gpu::kv_type kv = kernels::gpu::kv_type::bf16;
  quantization quantize = quantization::none;
  std::uint32_t max_slots = 64;
  std::uint32_t max_batched_tokens = 2048;
  std::uint32_t max_model_len = 0;  ///< 0: the model's context
  /// 0: what is left of `memory_share` of the free memory, at most max_slots full sequences.
  std::uint32_t n_pages = 0;
  double memory_share = 0.9;
  bool deterministic = false;  ///< no product chosen by the number of tokens
  bool graphs = true;
  std::chrono::milliseconds mask_patience = model::mask_patience;  ///< how long a step waits for its rows' masks
  std::string plan_file;  ///< where timed choices of products are kept; empty: not kept
  std::function<cudaError_t(step_seq, cudaStream_t)> before_step;  ///< tests enqueue what goes wrong on a card here
};

/// Bytes that a backend takes on its card, known before it takes them.
struct memory_plan {
  std::uint64_t weights = 0, kv = 0, activations = 0, slots = 0, workspace = 0;
  std::uint64_t page_bytes = 0;  ///< one KV page, all layers
  std::uint64_t free = 0;        ///< before
  std::uint64_t total() const { return weights + kv + activations + slots + workspace; }
  std::string describe() const;
};

}  // namespace troupe::gpu
