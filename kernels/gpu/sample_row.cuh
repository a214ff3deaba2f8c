#pragma once
#include <cstdint>

#include "kernels/common/philox.hpp"
#include "kernels/gpu/ordered.cuh"
#include "kernels/gpu/sample.hpp"

/// What the sampler's kernels share: how a row's logits become the values that are drawn from, and the scratch between
/// them. Values are computed where they are needed, from the raw logits, which never change; every operation is the one
/// of src/sample, in its order.
namespace troupe::kernels::gpu {

inline constexpr std::uint32_t chunk_tokens = 4096, max_candidates = 8;

/// What the scan finds in chunk_tokens tokens of a row. Its bounds do not depend on the batch, nor do its sums.
struct alignas(16) chunk_part {
  float raw_top, raw_sum;      ///< largest raw logit, sum of exp(logit - raw_top) if the row wants a logprob
  float top;                   ///< largest value
  std::uint32_t top_token;     ///< the lowest one of equals
  std::uint32_t bad;           ///< an infinity or a NaN is among the raw logits
  std::uint32_t n_candidates;  ///< tokens that may win the draw; more than max_candidates: any of the chunk
  std::uint32_t candidates[max_candidates];
  std::uint32_t padding[2];
};
static_assert(sizeof(chunk_part) == 64);

__host__ __device__ constexpr std::uint32_t chunks_of(std::uint32_t vocab) {
  return (vocab + chunk_tokens - 1) / chunk_tokens;
}

struct draw_rules {
  bool greedy, filtered;
  float scale;  ///< 1 / temperature
};
__device__ inline draw_rules rules_of(const slot_sampling& s, std::uint32_t vocab) {
  const bool greedy = !(s.temperature >= 1e-5f);
  const bool few = s.top_k > 0 && static_cast<std::uint32_t>(s.top_k) < vocab;
  return {greedy, !greedy && (s.min_p > 0 || s.top_p < 1 || few), __fdiv_rn(1.0f, fminf(s.temperature, 1e6f))};
}

/// Ascending order is that of src/sample: larger values first, equals by id.
__device__ inline std::uint64_t rank_of(float x, std::uint32_t token) {
  return std::uint64_t{~key_of(x)} << 32 | token;
}
__device__ inline float value_of_rank(std::uint64_t rank) { return value_of(~static_cast<std::uint32_t>(rank >> 32)); }
inline constexpr std::uint64_t last_rank = ~std::uint64_t{0};

__device__ inline float bounded(float x) { return fminf(fmaxf(x, -1e30f), 1e30f); }

struct row_view {
  const float* logits;
  const std::uint32_t* counts;  ///< null: no penalties
  const bias_entry* biases;
  std::uint32_t n_biases, vocab;
  float repetition, frequency, presence;
  bool whole_quads;             ///< the row's logits may be read 16 bytes at a time
  const std::uint32_t* biased;  ///< shared: a bit per quad of tokens, from first_quad on, which a bias may concern
  std::uint32_t first_quad;
  const std::uint32_t* mask;  ///< shared: a bit per token, null: all are allowed
};

__device__ inline row_view view_of(const sample_args& a, const sample_row& row, const slot_sampling& s) {
  row_view v{};
  v.logits = a.logits + std::size_t{row.logits_row} * a.ld_logits;
  v.counts = s.penalizes ? a.counts + std::size_t{row.slot} * a.vocab : nullptr;
  v.biases = a.biases + s.bias_offset;
  v.n_biases = s.n_biases;
  v.vocab = a.vocab;
  v.repetition = s.repetition_penalty;
  v.frequency = s.frequency_penalty;
  v.presence = s.presence_penalty;
  v.whole_quads = reinterpret_cast<std::uintptr_t>(v.logits) % 16 == 0;
  return v;
}

/// The whole block: notes which of the quads from first_quad on have a bias. Ends with a barrier.
__device__ inline void note_biases(row_view& v, std::uint32_t* bits, std::uint32_t first_quad, std::uint32_t n_quads) {
  for (std::uint32_t i = threadIdx.x; i < (n_quads + 31) / 32; i += blockDim.x) bits[i] = 0;
  __syncthreads();
  for (std::uint32_t i = threadIdx.x; i < v.n_biases; i += blockDim.x) {
    const std::int32_t token = v.biases[i].token;
    const std::uint32_t quad = static_cast<std::uint32_t>(token) / 4 - first_quad;
    if (token >= 0 && quad < n_quads) atomicOr(bits + quad / 32, 1u << quad % 32);
  }
  __syncthreads();
  v.biased = bits;
  v.first_quad = first_quad;
}

/// Tokens 4 quad ... 4 quad + 3 that exist and are allowed, as bits, and their raw logits; -infinity for the others.
__device__ inline std::uint32_t fetch(const row_view& v, std::uint32_t quad, float (&x)[4]) {
  const std::uint32_t token = 4 * quad, left = v.vocab - token;
  std::uint32_t valid = left >= 4 ? 0xfu : (1u << left) - 1;
  if (v.mask) valid &= v.mask[quad / 8] >> quad % 8 * 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] = -INFINITY;
  if (valid == 0) return 0;
  if (v.whole_quads && left >= 4) {
    const float4 all = *reinterpret_cast<const float4*>(v.logits + token);
    x[0] = all.x;
    x[1] = all.y;
    x[2] = all.z;
    x[3] = all.w;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (!(valid >> i & 1)) x[i] = -INFINITY;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (valid >> i & 1) x[i] = v.logits[token + i];
  }
  return valid;
}

__device__ inline float penalized(const row_view& v, float x, std::uint32_t count) {
  if (count == 0) return x;
  x = x > 0 ? __fdiv_rn(x, v.repetition) : __fmul_rn(x, v.repetition);
  if (const std::uint32_t outputs = count & 0x7fffffffu)
    x = __fsub_rn(x, __fadd_rn(v.presence, __fmul_rn(v.frequency, static_cast<float>(outputs))));
  return x != x ? 0.0f : bounded(x);
}
__device__ inline float with_biases(const row_view& v, float x, std::uint32_t token) {
  for (std::uint32_t i = 0; i < v.n_biases; ++i) {
    const bias_entry b = v.biases[i];
    if (static_cast<std::uint32_t>(b.token) == token && b.addend == b.addend)
      x = bounded(__fadd_rn(x, bounded(b.addend)));
  }
  return x;
}
/// From raw logits, as fetch gives them, to values.
__device__ inline void adjust(const row_view& v, std::uint32_t quad, std::uint32_t valid, float (&x)[4]) {
  if (v.biased && valid) {
    const std::uint32_t at = quad - v.first_quad;
    if (v.biased[at / 32] >> at % 32 & 1)
#pragma unroll
      for (std::uint32_t i = 0; i < 4; ++i)
        if (valid >> i & 1) x[i] = with_biases(v, x[i], 4 * quad + i);
  }
  if (v.counts && valid) {
#pragma unroll
    for (std::uint32_t i = 0; i < 4; ++i)
      if (valid >> i & 1) x[i] = penalized(v, x[i], v.counts[4 * quad + i]);
  }
}
/// One token's value.
__device__ inline float value_at(const row_view& v, std::uint32_t token) {
  const float x = with_biases(v, v.logits[token], token);
  return v.counts ? penalized(v, x, v.counts[token]) : x;
}

/// A draw is decided by score = (value - top) * scale + noise; its winner is what src/sample finds, bit for bit.
struct noise_key {
  std::uint64_t seed;
  std::uint32_t choice, position;
};
__device__ inline std::uint64_t score_rank(float value, float top, float scale, const noise_key& k,
                                           std::uint32_t token) {
  const float z = __fmul_rn(__fsub_rn(value, top), scale);
  return rank_of(__fadd_rn(z, draw_gumbel(k.seed, k.choice, k.position, token)), token);
}

/// Bounds of log2(E) - z log2(e), whose smallest value wins the draw, without the noise's two logarithms. E = -log(1 -
/// v) is above v; it is below v + v^2 up to v = 0.68 and below 23 anyway. Counted from 2^32 v, z in units of log2(e).
struct race_bounds {
  float low, high;
};
inline constexpr float race_margin = 1e-3f;  ///< rounding here and in the exact score is below 1e-4 where it matters
__device__ inline race_bounds bounds_of(std::uint32_t random_bits, float z2) {
  const float v = __fadd_rn(static_cast<float>(random_bits), 0.5f);
  const float low = __fsub_rn(__log2f(v), z2);
  return {low, __fadd_rn(low, v <= 0.68f * 0x1p32f ? __fmul_rn(v, 1.442695041f * 0x1p-32f) : 5.2f)};
}

}  // namespace troupe::kernels::gpu
