#pragma once
#include "kernels/gpu/sample_row.cuh"

/// What a block of the sampler's second kernel does together: passes over a row, reductions, searches in running sums.
/// Every function is called by the whole block. Sums are of integers, so that no order of atomics shows in them.
namespace troupe::kernels::gpu {

inline constexpr unsigned n_finish_threads = 512, n_finish_warps = n_finish_threads / 32;
inline constexpr unsigned n_bins = 2048, n_list = 2048, bins_each = n_bins / n_finish_threads;

/// The place in a list of (count, mass) where the running sum first reaches a target.
struct crossing {
  std::uint32_t index, count_before, count;
  std::uint32_t total_count;
  std::uint64_t mass_before, mass, total_mass;
};

struct block_room {
  std::uint64_t list[n_list];  ///< ranks
  std::uint32_t count[n_bins], mass_low[n_bins], mass_high[n_bins];
  std::uint64_t mass_of_warp[n_finish_warps], rank_of_warp[n_finish_warps];
  std::uint32_t count_of_warp[n_finish_warps];
  double sum_of_warp[n_finish_warps];
  crossing found;
  std::uint32_t n_listed, bound;
};

/// f(quad, values, valid) for all quads of the row, by all threads alike (valid is 0 beyond the end). Four loads of 16
/// bytes per thread are under way together.
template <class F>
__device__ __forceinline__ void for_quads(const row_view& v, F f) {
  constexpr unsigned batch = 4;
  const std::uint32_t n_quads = (v.vocab + 3) / 4;
  for (std::uint32_t base = threadIdx.x; base - threadIdx.x < n_quads; base += batch * n_finish_threads) {
    float x[batch][4];
    std::uint32_t valid[batch];
#pragma unroll
    for (unsigned j = 0; j < batch; ++j) {
      const std::uint32_t quad = base + j * n_finish_threads;
      valid[j] = 0;
      if (quad < n_quads) valid[j] = fetch(v, quad, x[j]);
    }
#pragma unroll
    for (unsigned j = 0; j < batch; ++j) {
      const std::uint32_t quad = base + j * n_finish_threads;
      adjust(v, quad, valid[j], x[j]);
      f(quad, x[j], valid[j]);
    }
  }
}

__device__ inline std::uint64_t block_min(std::uint64_t x, block_room& room) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const std::uint64_t other = __shfl_xor_sync(0xffffffffu, x, step);
    x = other < x ? other : x;
  }
  if (threadIdx.x % 32 == 0) room.rank_of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  for (std::uint64_t other : room.rank_of_warp) x = other < x ? other : x;
  __syncthreads();
  return x;
}

/// In a fixed order.
__device__ inline double block_sum(double x, block_room& room) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  if (threadIdx.x % 32 == 0) room.sum_of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (double w : room.sum_of_warp) x += w;
  __syncthreads();
  return x;
}

/// Where the running count (or mass) of items 0 .. n_bins - 1 first reaches target(total count, total mass), which is
/// at least 1 and at most the total; beyond it the index is n_bins. item(i, count, mass) sets both.
template <class Target, class Item>
__device__ crossing find_crossing(bool by_mass, block_room& room, Target target, Item item) {
  std::uint32_t counts[bins_each], count = 0;
  std::uint64_t masses[bins_each], mass = 0;
#pragma unroll
  for (unsigned e = 0; e < bins_each; ++e) {
    item(threadIdx.x * bins_each + e, counts[e], masses[e]);
    count += counts[e];
    mass += masses[e];
  }
  const std::uint32_t own_count = count, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::uint64_t own_mass = mass;
#pragma unroll
  for (unsigned step = 1; step < 32; step *= 2) {
    const std::uint32_t c = __shfl_up_sync(0xffffffffu, count, step);
    const std::uint64_t m = __shfl_up_sync(0xffffffffu, mass, step);
    if (lane >= step) {
      count += c;
      mass += m;
    }
  }
  if (lane == 31) {
    room.count_of_warp[warp] = count;
    room.mass_of_warp[warp] = mass;
  }
  if (threadIdx.x == 0) room.found.index = n_bins;
  __syncthreads();
  std::uint32_t total_count = 0, count_before = count - own_count;
  std::uint64_t total_mass = 0, mass_before = mass - own_mass;
  for (unsigned w = 0; w < n_finish_warps; ++w) {
    if (w < warp) {
      count_before += room.count_of_warp[w];
      mass_before += room.mass_of_warp[w];
    }
    total_count += room.count_of_warp[w];
    total_mass += room.mass_of_warp[w];
  }
  const std::uint64_t wanted = target(total_count, total_mass);
#pragma unroll
  for (unsigned e = 0; e < bins_each; ++e) {
    const std::uint64_t before = by_mass ? mass_before : count_before;
    const std::uint64_t own = by_mass ? masses[e] : counts[e];
    if (before < wanted && wanted <= before + own)
      room.found = {threadIdx.x * bins_each + e, count_before, counts[e], 0, mass_before, masses[e], 0};
    count_before += counts[e];
    mass_before += masses[e];
  }
  __syncthreads();
  crossing result = room.found;
  result.total_count = total_count;
  result.total_mass = total_mass;
  __syncthreads();
  return result;
}

__device__ inline void clear_bins(block_room& room) {
  for (unsigned i = threadIdx.x; i < n_bins; i += n_finish_threads)
    room.count[i] = room.mass_low[i] = room.mass_high[i] = 0;
  __syncthreads();
}
/// There is no 64-bit addition in shared memory: the carry goes by hand, once per time that the low word wraps.
__device__ inline void add_to_bin(block_room& room, std::uint32_t bin, std::uint32_t count, std::uint64_t mass) {
  atomicAdd(room.count + bin, count);
  const std::uint32_t low = static_cast<std::uint32_t>(mass);
  if (low == 0 && mass == 0) return;
  const std::uint32_t before = atomicAdd(room.mass_low + bin, low);
  const std::uint32_t high = static_cast<std::uint32_t>(mass >> 32) + (before + low < before);
  if (high) atomicAdd(room.mass_high + bin, high);
}
struct bin_items {
  const block_room& room;
  __device__ void operator()(std::uint32_t i, std::uint32_t& count, std::uint64_t& mass) const {
    count = room.count[i];
    mass = std::uint64_t{room.mass_high[i]} << 32 | room.mass_low[i];
  }
};

/// list[0, n) ascending; n at most n_list. Bitonic.
__device__ inline void sort_list(block_room& room, std::uint32_t n) {
  std::uint32_t size = 2;
  while (size < n) size *= 2;
  for (std::uint32_t i = n + threadIdx.x; i < size; i += n_finish_threads) room.list[i] = last_rank;
  __syncthreads();
  for (std::uint32_t run = 2; run <= size; run *= 2)
    for (std::uint32_t step = run / 2; step > 0; step /= 2) {
      for (std::uint32_t i = threadIdx.x; i < size / 2; i += n_finish_threads) {
        const std::uint32_t a = 2 * i - (i & (step - 1)), b = a + step;
        const std::uint64_t x = room.list[a], y = room.list[b];
        if ((x > y) == ((a & run) == 0)) {
          room.list[a] = y;
          room.list[b] = x;
        }
      }
      __syncthreads();
    }
}

}  // namespace troupe::kernels::gpu
