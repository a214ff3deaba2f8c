#pragma once
#include <cmath>

#include "kernels/gpu/element.cuh"
#include "kernels/gpu/experts.hpp"
#include "kernels/gpu/ordered.cuh"

namespace troupe::kernels::gpu {

inline constexpr std::uint32_t all_lanes = 0xffffffffu;

/// NaN counts as -inf.
__device__ inline std::uint32_t logit_key(float x) { return key_of(x == x ? x : -INFINITY); }

/// A warp chooses token t's experts; lane l has the logits of experts l, l + 32, ... of [n, n_experts]. counts: the
/// experts' rows are counted as well. Bytes: n_experts * 4.
template <int per_lane, bool counts>
__device__ void route_token(const float* logits, bool renormalized, const expert_routes& r, std::uint32_t t) {
  const std::uint32_t lane = threadIdx.x % 32;
  logits += std::uint64_t{t} * r.n_experts;
  std::uint32_t keys[per_lane];  // 0: no expert
#pragma unroll
  for (int i = 0; i < per_lane; ++i)
    keys[i] = 32 * i + lane < r.n_experts ? logit_key(__ldcg(logits + 32 * i + lane)) : 0;

  std::uint32_t taken = 0, largest = 0;  // taken: bit i for expert 32 i + lane
  for (std::uint32_t j = 0; j < r.n_used; ++j) {
    std::uint32_t best = 0, expert = all_lanes;
#pragma unroll
    for (int i = 0; i < per_lane; ++i)
      if (!(taken >> i & 1) && keys[i] > best) best = keys[i], expert = 32 * i + lane;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const std::uint32_t other = __shfl_xor_sync(all_lanes, best, step);
      const std::uint32_t other_expert = __shfl_xor_sync(all_lanes, expert, step);
      if (other > best || (other == best && other_expert < expert)) best = other, expert = other_expert;
    }
    if (j == 0) largest = best;
    if (expert % 32 == lane) taken |= 1u << expert / 32;
  }

  const float top = value_of(largest);
  float weights[per_lane], sum = 0;  // of what the weights are shares of
#pragma unroll
  for (int i = 0; i < per_lane; ++i) {
    weights[i] = keys[i] ? expf(value_of(keys[i]) - top) : 0.0f;
    if (!renormalized || taken >> i & 1) sum += weights[i];
  }
  sum = warp_sum(sum);
  std::uint32_t place = t * r.n_used;
#pragma unroll
  for (int i = 0; i < per_lane; ++i) {
    const bool mine = taken >> i & 1;
    const std::uint32_t all = __ballot_sync(all_lanes, mine);
    if (mine) {
      const std::uint32_t at = place + __popc(all & ((1u << lane) - 1));
      r.chosen[at] = 32 * i + lane;
      r.shares[at] = __fdiv_rn(weights[i], sum);
      if constexpr (counts) atomicAdd(r.counts + 32 * i + lane, 1u);
    }
    place += __popc(all);
  }
}

}  // namespace troupe::kernels::gpu
