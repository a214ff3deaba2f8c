#pragma once
#include "kernels/gpu/attention_scratch.hpp"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/fragments.cuh"
#include "kernels/gpu/last_block.cuh"

/// What the attention kernels share: the geometry of a piece of work, the merging of segments and the end of a row.
namespace troupe::kernels::gpu {

inline constexpr int attention_threads = 128;

/// The scratch as the kernels see it.
struct attention_scratch {
  std::uint32_t* counters;
  float2* sums;
  float* values;
  float4* totals;
  std::uint32_t partial_rows;
};
inline attention_scratch view_attention_scratch(const attention_args& a) {
  const attention_scratch_layout l = layout_attention_scratch(a.shape);
  char* base = static_cast<char*>(a.scratch);
  return {reinterpret_cast<std::uint32_t*>(base + l.counters), reinterpret_cast<float2*>(base + l.sums),
          reinterpret_cast<float*>(base + l.values), reinterpret_cast<float4*>(base + l.totals),
          attention_partial_rows(a.shape)};
}

/// Which piece of work (item times KV head) this block takes in its turn: forth, then back, so that a block that had a
/// long piece gets a short one next. Past the end: n_work or more.
__device__ inline std::uint32_t piece_of_turn(std::uint32_t turn) {
  return turn * gridDim.x + (turn % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}

/// An item for one KV head.
struct attention_work {
  attention_item item;
  std::uint32_t kv_head, group, n_rows;  ///< row r: token r / group, query head kv_head * group + r % group
  std::uint32_t oldest, newest;          ///< positions that any of its rows sees: [oldest, newest]
  std::uint32_t first_tile, last_tile;   ///< of attention_kv_tile positions: [first, last)
};

/// Oldest position that the query at `position` sees.
__device__ inline std::uint32_t oldest_seen(std::uint32_t position, std::uint32_t window) {
  return window && position >= window ? position - window + 1 : 0;
}

__device__ inline attention_work attention_work_of(const attention_args& a, std::uint32_t piece) {
  attention_work w;
  w.item = a.items[piece / a.shape.n_kv_heads];
  w.kv_head = piece % a.shape.n_kv_heads;
  w.group = a.shape.n_heads / a.shape.n_kv_heads;
  w.n_rows = w.item.n_tokens * w.group;
  w.oldest = oldest_seen(w.item.position, a.shape.window);
  w.newest = w.item.position + w.item.n_tokens - 1;
  constexpr std::uint32_t per_segment = attention_segment / attention_kv_tile;
  w.first_tile = max(w.item.first_segment * per_segment, w.oldest / attention_kv_tile);
  w.last_tile = min(w.item.last_segment * per_segment, w.newest / attention_kv_tile + 1);
  return w;
}

/// Index of query row `row`, segment `segment`, among the partial results.
__device__ inline std::size_t partial_index(const attention_args& a, const attention_scratch& s,
                                            const attention_work& w, std::uint32_t segment, std::uint32_t row) {
  const std::uint32_t offset = (segment - attention_first_segment(w.item.position, a.shape.window)) * w.n_rows + row;
  return std::size_t{w.kv_head} * s.partial_rows + w.item.partial + offset;
}

/// The left fold over segments, one formula for all ways to get there. `top` is the largest score in log2 units so far
/// (-inf: nothing seen), `sum` what 2^(score - top) sums up to. Older values times `old_weight` plus the segment's
/// times `new_weight`, by fmaf(old, old_weight, added * new_weight), are the new ones. A segment in which the row sees
/// nothing changes no bit.
struct row_total {
  float top, sum;
};
struct fold_weights {
  float old_weight, new_weight;
};
__device__ inline fold_weights fold(row_total& total, float segment_top, float segment_sum) {
  const float top = fmaxf(total.top, segment_top);
  const float safe = top == -INFINITY ? 0.0f : top;
  const fold_weights w{exp2_approximate(total.top - safe), exp2_approximate(segment_top - safe)};
  total.sum = fmaf(total.sum, w.old_weight, segment_sum * w.new_weight);
  total.top = top;
  return w;
}
__device__ inline float fold_value(float old, float added, fold_weights w) {
  return fmaf(old, w.old_weight, added * w.new_weight);
}

/// What the summed values are multiplied with in the end; a sink takes its share of the softmax here.
__device__ inline float final_weight(row_total total, const float* sinks, std::uint32_t head, float value_unit) {
  float weight = 1.0f, sum = total.sum;
  if (sinks) {
    const float sink = sinks[head] * log2_e, top = fmaxf(total.top, sink);
    weight = exp2_approximate(total.top - top);
    sum = fmaf(sum, weight, exp2_approximate(sink - top));
  }
  return __fdiv_rn(weight, sum) * value_unit;
}

/// Called by the whole block when its part's partial results are written: the block that ends last folds all segments
/// in ascending order and writes the tile's rows. Moves 2 * n_rows * segments * head_dim * 4 bytes through L2.
template <class T>
__device__ void finish_part(const attention_args& a, const attention_scratch& s, const attention_work& w,
                            float value_unit) {
  __shared__ bool is_last;
  if (!is_last_block(is_last, w.item.n_parts,
                     [&] { return s.counters + std::size_t{w.item.partial} * a.shape.n_kv_heads + w.kv_head; }))
    return;
  __threadfence();

  const std::uint32_t head_dim = a.shape.head_dim, quads = head_dim / 4;
  const std::uint32_t n_segments = attention_last_segment(w.item.position, w.item.n_tokens) -
                                   attention_first_segment(w.item.position, a.shape.window);
  const std::size_t first = std::size_t{w.kv_head} * s.partial_rows + w.item.partial;
  for (std::uint32_t i = threadIdx.x; i < w.n_rows * quads; i += attention_threads) {
    const std::uint32_t row = i / quads, quad = i % quads;
    const float2* sums = s.sums + first + row;
    const float4* values = reinterpret_cast<const float4*>(s.values) + (first + row) * quads + quad;
    row_total total{-INFINITY, 0.0f};
    float4 x{0, 0, 0, 0};
    constexpr std::uint32_t ahead = 8;  // loads in flight
    for (std::uint32_t g = 0; g < n_segments; g += ahead) {
      float2 part_sums[ahead];
      float4 part[ahead];
#pragma unroll
      for (std::uint32_t j = 0; j < ahead; ++j)
        if (g + j < n_segments) {
          part_sums[j] = __ldcg(sums + std::size_t{g + j} * w.n_rows);
          part[j] = __ldcg(values + std::size_t{g + j} * w.n_rows * quads);
        }
#pragma unroll
      for (std::uint32_t j = 0; j < ahead; ++j)
        if (g + j < n_segments) {
          const fold_weights f = fold(total, part_sums[j].x, part_sums[j].y);
          x.x = fold_value(x.x, part[j].x, f);
          x.y = fold_value(x.y, part[j].y, f);
          x.z = fold_value(x.z, part[j].z, f);
          x.w = fold_value(x.w, part[j].w, f);
        }
    }
    const std::uint32_t head = w.kv_head * w.group + row % w.group;
    const float f = final_weight(total, a.sinks, head, value_unit);
    T* out = static_cast<T*>(a.out) + (std::size_t{w.item.token + row / w.group} * a.shape.n_heads + head) * head_dim +
             quad * 4;
    out[0] = element<T>::put(x.x * f);
    out[1] = element<T>::put(x.y * f);
    out[2] = element<T>::put(x.z * f);
    out[3] = element<T>::put(x.w * f);
  }
}

}  // namespace troupe::kernels::gpu
