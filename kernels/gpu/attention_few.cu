#include <algorithm>

#include "kernels/gpu/attention_parts.cuh"
#include "kernels/gpu/dependent.cuh"

namespace troupe::kernels::gpu {
namespace {

constexpr std::uint32_t warps = 8, threads = 32 * warps;
constexpr std::uint32_t pass = 64;         ///< positions that a block takes at once
constexpr std::uint32_t most_splits = 64;  ///< of a KV head's positions among blocks
constexpr std::uint32_t least_splits = 16;

template <class T>
__device__ void spread(float (&x)[8], const uint4& packet) {
  const std::uint32_t w[4] = {packet.x, packet.y, packet.z, packet.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = two_of(w[i], T{});
    x[2 * i] = two.x;
    x[2 * i + 1] = two.y;
  }
}

/// Of the query heads of one KV head: largest score in log2 units, sum, and eight columns of the weighted values.
template <int group>
struct running {
  float top[group], sum[group], values[group][8];
  __device__ void clear() {
#pragma unroll
    for (int g = 0; g < group; ++g) {
      top[g] = -INFINITY;
      sum[g] = 0.0f;
#pragma unroll
      for (int j = 0; j < 8; ++j) values[g][j] = 0.0f;
    }
  }
  /// Adds what the lane `distance` away has of other positions.
  __device__ void merge(int distance) {
#pragma unroll
    for (int g = 0; g < group; ++g) {
      const float other = __shfl_xor_sync(0xffffffffu, top[g], distance), best = fmaxf(top[g], other);
      const float safe = best == -INFINITY ? 0.0f : best;
      const float mine = exp2_approximate(top[g] - safe), theirs = exp2_approximate(other - safe);
      sum[g] = sum[g] * mine + __shfl_xor_sync(0xffffffffu, sum[g], distance) * theirs;
#pragma unroll
      for (int j = 0; j < 8; ++j)
        values[g][j] = values[g][j] * mine + __shfl_xor_sync(0xffffffffu, values[g][j], distance) * theirs;
      top[g] = best;
    }
  }
};

/// Block (h, t, s): the query heads of KV head h, part s of the positions that token t sees; where contexts are short
/// the last parts are empty, and come when the others have begun. HeadDim / 8 lanes hold a row of keys or values; a
/// pass brings 64 rows of each into registers, all at once, so that a short context costs one trip to memory. The block
/// that ends last adds the token's parts up. Token t has the partial rows from t * splits * group of each KV head and
/// the counters of the first of them. Bytes: keys and values once per token.
template <class T, int HeadDim, int group>
__global__ void __launch_bounds__(threads)
    few_kernel(const __grid_constant__ attention_args a, const __grid_constant__ attention_scratch scratch,
               const std::uint32_t* positions, const std::uint32_t* slots, const std::uint32_t* n_tokens) {
  constexpr int lanes = HeadDim / 8, rows = 32 / lanes, turns = pass / (warps * rows);
  constexpr std::uint32_t per_warp = pass / warps;
  __shared__ float tops[warps][group], sums[warps][group], values[warps][group][HeadDim];
  __shared__ bool is_last;
  let_next_start();
  wait_for_previous();
  const std::uint32_t token = blockIdx.y, split = blockIdx.z, n_splits = gridDim.z;
  if (token >= *n_tokens) return;
  const std::uint32_t position = positions[token], slot = slots[token];
  const std::uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / lanes, part = lane % lanes;
  const std::uint32_t kv_head = blockIdx.x, n_kv = a.shape.n_kv_heads;
  const std::uint32_t oldest = oldest_seen(position, a.shape.window), first = oldest / page_tokens * page_tokens;
  const std::uint32_t n = position + 1 - first;
  // The more tokens share the card, the longer a part is at least: they fill it without dividing short contexts.
  const std::uint32_t length = max(((n + n_splits - 1) / n_splits + pass - 1) / pass, max(1u, gridDim.y / 2)) * pass;
  const std::uint32_t n_parts = (n + length - 1) / length;
  if (split >= n_parts) return;
  const std::uint32_t begin = first + split * length, end = min(begin + length, position + 1);

  const std::uint32_t* const table = a.page_table + std::uint64_t{slot} * a.table_pages;
  const auto page_of = [&](std::uint32_t base) {  // of the positions of this warp in the pass that begins there
    const std::uint32_t p = base + warp * per_warp;
    return p < end ? table[p / page_tokens] : 0;
  };
  std::uint32_t page = page_of(begin);
  float q[group][8];
#pragma unroll
  for (int g = 0; g < group; ++g) {
    const auto* from = static_cast<const T*>(a.q) + std::size_t{token} * a.ld_q + (kv_head * group + g) * HeadDim;
    spread<T>(q[g], reinterpret_cast<const uint4*>(from)[part]);
#pragma unroll
    for (int j = 0; j < 8; ++j) q[g][j] *= a.scale * log2_e;
  }

  running<group> r;
  r.clear();
  for (std::uint32_t base = begin; base < end; base += pass) {
    uint4 k[turns], v[turns];
    bool seen[turns];
#pragma unroll
    for (int u = 0; u < turns; ++u) {
      const std::uint32_t p = base + warp * per_warp + u * rows + row;
      seen[u] = p < end && p >= oldest;
      const std::uint64_t at = ((std::uint64_t{page} * n_kv + kv_head) * page_tokens + p % page_tokens) * lanes + part;
      k[u] = seen[u] ? __ldcs(static_cast<const uint4*>(a.kv.k) + at) : uint4{0, 0, 0, 0};
      v[u] = seen[u] ? __ldcs(static_cast<const uint4*>(a.kv.v) + at) : uint4{0, 0, 0, 0};
    }
    page = page_of(base + pass);
    float score[turns][group];
#pragma unroll
    for (int u = 0; u < turns; ++u) {
      float x[8];
      spread<T>(x, k[u]);
#pragma unroll
      for (int g = 0; g < group; ++g) {
        float dot = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; ++j) dot = fmaf(q[g][j], x[j], dot);
        score[u][g] = dot;
      }
    }
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2)
#pragma unroll
      for (int u = 0; u < turns; ++u)
#pragma unroll
        for (int g = 0; g < group; ++g) score[u][g] += __shfl_xor_sync(0xffffffffu, score[u][g], distance);
#pragma unroll
    for (int g = 0; g < group; ++g) {
      float top = r.top[g];
#pragma unroll
      for (int u = 0; u < turns; ++u) top = fmaxf(top, score[u][g] = seen[u] ? score[u][g] : -INFINITY);
      const float safe = top == -INFINITY ? 0.0f : top, correction = exp2_approximate(r.top[g] - safe);
      r.top[g] = top;
      r.sum[g] *= correction;
#pragma unroll
      for (int j = 0; j < 8; ++j) r.values[g][j] *= correction;
#pragma unroll
      for (int u = 0; u < turns; ++u) r.sum[g] += score[u][g] = exp2_approximate(score[u][g] - safe);
    }
#pragma unroll
    for (int u = 0; u < turns; ++u) {
      float x[8];
      spread<T>(x, v[u]);
#pragma unroll
      for (int g = 0; g < group; ++g)
#pragma unroll
        for (int j = 0; j < 8; ++j) r.values[g][j] = fmaf(score[u][g], x[j], r.values[g][j]);
    }
  }
#pragma unroll
  for (int distance = lanes; distance < 32; distance *= 2) r.merge(distance);
  if (row == 0) {
#pragma unroll
    for (int g = 0; g < group; ++g) {
      if (part == 0) tops[warp][g] = r.top[g], sums[warp][g] = r.sum[g];
#pragma unroll
      for (int j = 0; j < 8; ++j) values[warp][g][part * 8 + j] = r.values[g][j];
    }
  }
  __syncthreads();

  // Thread i: columns i, i + threads and so on of the group's rows.
  const std::uint32_t partial = token * n_splits * group;
  const std::size_t own = std::size_t{kv_head} * scratch.partial_rows + partial;
  T* const out = static_cast<T*>(a.out) + (std::size_t{token} * n_kv + kv_head) * group * HeadDim;
  for (std::uint32_t i = threadIdx.x; i < group * HeadDim; i += threads) {
    const std::uint32_t g = i / HeadDim, column = i % HeadDim;
    float top = -INFINITY, sum = 0.0f, value = 0.0f;
#pragma unroll
    for (std::uint32_t w = 0; w < warps; ++w) top = fmaxf(top, tops[w][g]);
#pragma unroll
    for (std::uint32_t w = 0; w < warps; ++w) {
      const float weight = exp2_approximate(tops[w][g] - top);
      sum = fmaf(sums[w][g], weight, sum);
      value = fmaf(values[w][g][column], weight, value);
    }
    if (n_parts == 1) {
      out[i] = element<T>::put(__fdiv_rn(value, sum));
      continue;
    }
    const std::size_t at = own + split * group + g;
    if (column == 0) scratch.sums[at] = {top, sum};
    scratch.values[at * HeadDim + column] = value;
  }
  if (n_parts == 1) return;
  if (!is_last_block(is_last, n_parts, [&] { return scratch.counters + std::size_t{partial} * n_kv + kv_head; }))
    return;
  __threadfence();
  for (std::uint32_t i = threadIdx.x; i < group * HeadDim; i += threads) {
    const std::uint32_t g = i / HeadDim, column = i % HeadDim;
    row_total total{-INFINITY, 0.0f};
    float value = 0.0f;
#pragma unroll 8
    for (std::uint32_t s = 0; s < n_parts; ++s) {
      const std::size_t at = own + s * group + g;
      const float2 sum = __ldcg(scratch.sums + at);
      const fold_weights f = fold(total, sum.x, sum.y);
      value = fold_value(value, __ldcg(scratch.values + at * HeadDim + column), f);
    }
    out[i] = element<T>::put(__fdiv_rn(value, total.sum));
  }
}

/// Parts that the positions of each of max_tokens tokens are divided among at most: two blocks for an SM, but so many
/// that a long sequence among short ones has a good part of the card, and partial rows for all. Not of the tokens there
/// are, so that a graph has the grid, and each row the sums, of an eager step of its size.
std::uint32_t splits_of(const attention_shape& s, std::uint32_t max_tokens) {
  const std::uint32_t all = 2 * s.n_sms / s.n_kv_heads;
  const std::uint32_t wanted = max_tokens <= 2 ? all : std::max(all / max_tokens, std::min(all, least_splits));
  const std::uint32_t room = attention_partial_rows(s) / (attention_group(s) * max_tokens);
  return std::max(1u, std::min({most_splits, wanted, room}));  // one leaves nothing in the scratch
}

template <class T, int HeadDim>
cudaError_t launch(const attention_args& a, const std::uint32_t* positions, const std::uint32_t* slots,
                   const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t stream) {
  const dim3 grid(a.shape.n_kv_heads, max_tokens, splits_of(a.shape, max_tokens));
  const auto run = [&](auto kernel) {
    return launch_dependent(kernel, grid, threads, 0, stream, a, view_attention_scratch(a), positions, slots, n_tokens);
  };
  const std::uint32_t group = attention_group(a.shape);
  switch (group) {
    case 1:
      return run(few_kernel<T, HeadDim, 1>);
    case 2:
      return run(few_kernel<T, HeadDim, 2>);
    case 3:
      return run(few_kernel<T, HeadDim, 3>);
    case 4:
      return run(few_kernel<T, HeadDim, 4>);
    case 8:
      return run(few_kernel<T, HeadDim, 8>);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

bool can_attend_few(const attention_args& a, std::uint32_t max_tokens) {
  const std::uint32_t group = a.shape.n_kv_heads ? attention_group(a.shape) : 0;
  const bool same =
      (a.type == dtype::bf16 && a.kv.type == kv_type::bf16) || (a.type == dtype::f16 && a.kv.type == kv_type::f16);
  return max_tokens >= 1 && max_tokens <= attention_few_tokens && same &&
         (a.shape.head_dim == 64 || a.shape.head_dim == 128) && ((group >= 1 && group <= 4) || group == 8) &&
         group * a.shape.n_kv_heads == a.shape.n_heads && a.ld_q % 8 == 0 && a.soft_cap == 0 && a.sinks == nullptr;
}

cudaError_t attention_few(const attention_args& a, const std::uint32_t* positions, const std::uint32_t* slots,
                          const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t stream) {
  if (!can_attend_few(a, max_tokens)) return cudaErrorInvalidValue;
  const auto with_dim = [&]<class T>() {
    return a.shape.head_dim == 64 ? launch<T, 64>(a, positions, slots, n_tokens, max_tokens, stream)
                                  : launch<T, 128>(a, positions, slots, n_tokens, max_tokens, stream);
  };
  return a.type == dtype::f16 ? with_dim.template operator()<__half>() : with_dim.template operator()<__nv_bfloat16>();
}

}  // namespace troupe::kernels::gpu
