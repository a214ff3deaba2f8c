#pragma once
#include "kernels/gpu/attention.hpp"

/// What the planner, the scratch's size and the kernels of attention.hpp must agree on. Pure host code.
namespace troupe::kernels::gpu {

inline constexpr std::uint32_t attention_kv_tile = 64;   ///< positions of one softmax step
inline constexpr std::uint32_t attention_few_rows = 16;  ///< up to here a block's four warps share one 16-row tile
inline constexpr std::uint32_t attention_max_ctas = 2;   ///< blocks that run on one SM
inline constexpr float log2_e = 1.4426950408889634f;

/// 16-row tiles of one warp in a block of many rows. Two would halve what a score costs in reads of shared memory and
/// L2; with head_dim 128 they spill some 500 bytes per thread, so this waits for a measurement.
constexpr std::uint32_t attention_m_tiles(std::uint32_t /*head_dim*/) { return 1; }
/// Query rows (tokens times heads of a group) that a block computes together.
constexpr std::uint32_t attention_block_rows(std::uint32_t head_dim) { return 64 * attention_m_tiles(head_dim); }
/// Whether the sum over segments lies in memory, because registers hold one accumulator of this size only.
constexpr bool attention_totals_in_memory(std::uint32_t head_dim) {
  return head_dim * attention_m_tiles(head_dim) > 96;
}

constexpr std::uint32_t attention_group(const attention_shape& s) { return s.n_heads / s.n_kv_heads; }
constexpr std::uint32_t attention_tile_tokens(const attention_shape& s) {
  const std::uint32_t n = attention_block_rows(s.head_dim) / attention_group(s);
  return n ? n : 1;
}
/// Segments that tokens [position, position + n_tokens) see: [first, last).
constexpr std::uint32_t attention_first_segment(std::uint32_t position, std::uint32_t window) {
  return window && position >= window ? (position - window + 1) / attention_segment : 0;
}
constexpr std::uint32_t attention_last_segment(std::uint32_t position, std::uint32_t n_tokens) {
  return (position + n_tokens - 1) / attention_segment + 1;
}

/// Partial results of query rows that the scratch has room for, per KV head. The planner leaves a row whole rather than
/// exceed it. 64 MiB hold those of 2 M positions with 4 queries per KV head at 8 KV heads of 128.
std::uint32_t attention_partial_rows(const attention_shape&);

/// Where what lies in the scratch, in bytes.
///   counters [partial_rows][n_kv_heads] u32: parts of a tile that have ended, at the tile's first partial row
///   sums     [n_kv_heads][partial_rows] of maximum (log2 units) and sum
///   values   [n_kv_heads][partial_rows][head_dim]
///   totals   per block: sums over segments that do not fit registers
/// Row r of segment s of a tile: partial + (s - the tile's first segment) * rows of the tile + r.
struct attention_scratch_layout {
  std::uint64_t counters, sums, values, totals, bytes;
};
attention_scratch_layout layout_attention_scratch(const attention_shape&);

}  // namespace troupe::kernels::gpu
