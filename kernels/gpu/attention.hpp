#pragma once
#include <span>
#include <vector>

#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/launch.hpp"

/// Causal attention over the paged KV cache, for decode and prefill rows of one step alike.
///
/// One query row's result is computed in segments of `attention_segment` positions aligned to absolute position 0, an
/// online softmax within each, segments merged in ascending order: so it depends on its position, its sequence and the
/// head only, not on chunking, batching or which kernel (few or many rows) ran.
namespace troupe::kernels::gpu {

inline constexpr std::uint32_t attention_segment = 512;

/// A piece of work: up to `tile_tokens` consecutive tokens of one row against segments [first_segment, last_segment);
/// all heads of each KV head together. The kernel runs every item for every KV head.
struct attention_item {
  std::uint32_t slot, token, n_tokens, position;  ///< token: index among the step's tokens of the first one
  std::uint32_t first_segment, last_segment;
  std::uint32_t partial;  ///< where its partial results lie, no_partial: it finishes alone
  std::uint32_t n_parts;  ///< of this query tile; the part that ends last merges them in order
};
inline constexpr std::uint32_t no_partial = 0xffffffffu;

struct attention_shape {
  std::uint32_t n_heads, n_kv_heads, head_dim;
  std::uint32_t max_tokens, max_rows, max_model_len;
  std::uint32_t window;  ///< 0: all
  std::uint32_t n_sms;
};

/// How many items a step can have at most, and how much scratch (f32 partial results, counters) it takes.
std::uint32_t max_attention_items(const attention_shape&);
std::uint64_t attention_scratch_bytes(const attention_shape&);

/// Host, pure: splits the rows of a step into items; a function of the rows only. Decode rows are split so that the
/// card is full; long items first.
void plan_attention(const attention_shape&, std::span<const row_span> rows, std::vector<attention_item>& items);

struct attention_args {
  attention_shape shape;
  const void* q;  ///< [n_tokens, ld_q] of `type`: query heads first in each row (rope_and_store's qkv)
  std::uint32_t ld_q;
  void* out;  ///< [n_tokens, n_heads * head_dim] of `type`
  dtype type;
  kv_pool kv;
  const std::uint32_t* page_table;  ///< [max_slots][table_pages]
  std::uint32_t table_pages;
  float scale;                  ///< of the scores, usually 1 / sqrt(head_dim)
  float soft_cap;               ///< 0: none; else s = soft_cap * tanh(s / soft_cap) before masking
  const float* sinks;           ///< [n_heads] or null: a logit that takes part in the softmax without a value
  const attention_item* items;  ///< on the device
  const std::uint32_t* n_items;
  void* scratch;  ///< attention_scratch_bytes, counters zero before the first use and after each
};
/// head_dim 64, 96, 128 or 256 with f16/bf16 activations and f16/bf16/e4m3 keys of the same type: mma.sync. Anything
/// else up to head_dim 256 (multiples of 8): plain f32 arithmetic.
cudaError_t attention(const attention_args&, cudaStream_t);

/// The same for a step of a few tokens (*n_tokens, at most max_tokens), each for itself and by plain f32 arithmetic
/// that keeps short contexts short: an order of sums of its own, positions divided among the card's blocks by their
/// number and by max_tokens. Takes shape, q, out, type, kv, page_table, scale and scratch of the arguments; the items
/// are not read. positions, slots: of each token, on the device.
inline constexpr std::uint32_t attention_few_tokens = 4;
bool can_attend_few(const attention_args&, std::uint32_t max_tokens);
/// Whether it is the faster of the two: many queries per KV head are what tensor cores are for (perf_gpu_attention).
constexpr bool attention_few_pays(const attention_shape& s, std::uint32_t max_tokens) {
  return max_tokens == 1 || s.n_heads <= 4 * s.n_kv_heads;
}
cudaError_t attention_few(const attention_args&, const std::uint32_t* positions, const std::uint32_t* slots,
                          const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t);

}  // namespace troupe::kernels::gpu
