#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/common/kv_page.hpp"
#include "kernels/cpu/isa.hpp"

/// Causal attention over paged keys and values.
///
/// A page holds kv_page_tokens tokens of one sequence. For each layer and key/value head it has keys transposed,
/// [head_dim][16], so that sixteen keys are the lanes and scores need no horizontal sum; then values, [16][padded_dim].
/// Of keys and values only what was stored is read into results: pages may hold anything elsewhere.
///
/// The result of a query depends on its own keys alone: softmax runs over chunks of 64 absolute positions within segments
/// of 512, and segments are merged in order, whatever the pages' ids, the queries computed together, the thread or the
/// tier.
namespace troupe::kernels::cpu {

enum class kv_type : std::uint8_t { f16, bf16, f32 };

constexpr std::size_t element_bytes(kv_type t) { return t == kv_type::f32 ? 4 : 2; }
/// Elements of a stored value vector: head_dim rounded up to whole vectors.
constexpr std::size_t padded_dim(std::uint32_t head_dim) { return (head_dim + 15) / 16 * 16; }
/// Bytes of one page for one layer and one key/value head.
constexpr std::size_t kv_head_bytes(kv_type t, std::uint32_t head_dim) {
  return (head_dim + padded_dim(head_dim)) * kv_page_tokens * element_bytes(t);
}

inline constexpr std::uint32_t segment_tokens = 512;  ///< keys of one partial result
inline constexpr std::uint32_t max_tile_rows = 24;    ///< queries (tokens times heads) of one call

/// One layer's share of all pages: page p of head h starts at base + p * page_stride + h * kv_head_bytes.
struct kv_layer {
  std::byte* base;
  std::size_t page_stride;
  kv_type type;
  std::uint32_t head_dim;  ///< a multiple of 8, at most 256
};

/// A tile of queries that share a key/value head: n_tokens consecutive positions of one sequence times n_heads heads,
/// at most max_tile_rows together. Query (t, h) lies at q + t * q_stride + h * head_dim; results likewise in out.
struct attention_tile {
  kv_layer kv;
  const std::uint32_t* pages;  ///< the sequence's page table
  std::uint32_t kv_head;
  const float* q;
  std::size_t q_stride;
  float* out;
  std::size_t out_stride;
  std::uint32_t n_tokens, n_heads;
  std::uint32_t position;  ///< of the first token; its own key is visible to it
  std::uint32_t window;    ///< keys that a query sees, its own included; 0: all
  float scale;             ///< of the scores
  float soft_cap;          ///< 0: none; else scores become cap * tanh(score / cap)
};

constexpr std::uint32_t n_segments(const attention_tile& t) {
  return (t.position + t.n_tokens + segment_tokens - 1) / segment_tokens;
}
constexpr std::uint32_t first_segment(const attention_tile& t) {
  return t.window && t.position >= t.window ? (t.position - t.window + 1) / segment_tokens : 0;
}
/// Floats of one partial result of `rows` queries: per row the maximum, sixteen sums and the weighted values.
constexpr std::size_t partial_floats(std::uint32_t rows, std::uint32_t head_dim) {
  return rows * (padded_dim(head_dim) + 32);
}
/// Bytes of scratch that a call takes, aligned to 64.
constexpr std::size_t attention_scratch_bytes(std::uint32_t head_dim) {
  return sizeof(float) * (max_tile_rows * (head_dim + 64) + 2 * partial_floats(max_tile_rows, head_dim));
}

struct attention_kernels {
  /// The whole tile: out is written.
  void (*attend)(const attention_tile&, std::byte* scratch);
  /// One segment of the tile, into `partial` (partial_floats of its rows, aligned to 64).
  void (*attend_segment)(const attention_tile&, std::uint32_t segment, float* partial, std::byte* scratch);
  /// Merges the partial results of segments first_segment to n_segments, which lie one after the other, and writes out:
  /// the same bits as `attend`.
  void (*merge)(const attention_tile&, const float* partials, std::byte* scratch);
  /// Stores one token's keys and values, [n_heads][head_dim] each, at index `slot` of a page that starts (for this
  /// layer) at `page`.
  void (*store)(kv_type, std::uint32_t n_heads, std::uint32_t head_dim, const float* k, const float* v, std::byte* page,
                std::uint32_t slot);
};

/// The tier must be supported by this processor.
const attention_kernels& attention_kernels_for(isa tier);

}  // namespace troupe::kernels::cpu
