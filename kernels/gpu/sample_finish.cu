#include "kernels/gpu/sample_finish.cuh"

#include "kernels/gpu/card_clock.cuh"
#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/sample_block.cuh"

// A filter keeps the likeliest tokens up to a rank: by number (top_k), then by probability of what is left (top_p),
// min_p having taken away what lies below a value. The rank is found in a histogram over the distance to the largest
// value, with counts and probabilities in fixed point; only the bin in which the border lies is put in order. A bin too
// full for that is divided again, by ranks, until it is not.

namespace troupe::kernels::gpu {
namespace {

constexpr float mass_unit = 0x1p42f;    ///< of the largest value's exp: 2^20 tokens do not overflow
constexpr float bins_per_unit = 64.0f;  ///< of (top - value) / temperature; the last bin holds all from 32 on
enum result_flag : std::uint32_t { not_finite = 1, nothing_allowed = 2, gate_closed = 4 };

/// What is fixed while one row is drawn.
struct row_draw {
  row_view view;
  float top, scale, threshold;
  noise_key key;

  __device__ std::uint32_t bin_of(float x) const {
    return min(__float2uint_rz(__fmul_rn(__fmul_rn(__fsub_rn(top, x), scale), bins_per_unit)), n_bins - 1);
  }
  __device__ std::uint64_t mass_of(float x) const {
    return __float2ull_rn(__fmul_rn(expf(__fmul_rn(__fsub_rn(x, top), scale)), mass_unit));
  }
};

__device__ std::uint64_t part_of(double share, std::uint64_t mass) {
  const std::uint64_t part = static_cast<std::uint64_t>(ceil(share * static_cast<double>(mass)));
  return part < 1 ? 1 : part < mass ? part : mass;
}

struct list_items {
  const block_room& room;
  const row_draw& d;
  std::uint32_t n;
  __device__ void operator()(std::uint32_t i, std::uint32_t& count, std::uint64_t& mass) const {
    count = i < n;
    mass = i < n ? d.mass_of(value_of_rank(room.list[i])) : 0;
  }
};

__device__ void fill_value_bins(const row_draw& d, block_room& room) {
  clear_bins(room);
  std::uint32_t far = 0;  // of the last bin: most tokens of a usual row, so they do not go there one by one
  std::uint64_t far_mass = 0;
  for_quads(d.view, [&](std::uint32_t, const float(&x)[4], std::uint32_t valid) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!(valid >> i & 1) || x[i] < d.threshold) continue;
      const std::uint32_t bin = d.bin_of(x[i]);
      const std::uint64_t mass = d.mass_of(x[i]);
      if (bin < n_bins - 1) {
        add_to_bin(room, bin, 1, mass);
      } else {
        ++far;
        far_mass += mass;
      }
    }
  });
  if (far) add_to_bin(room, n_bins - 1, far, far_mass);
  __syncthreads();
}

/// Ranks [first, last], which (last - first) >> shift < n_bins divides into bins.
__device__ void fill_rank_bins(const row_draw& d, block_room& room, std::uint64_t first, std::uint64_t last,
                               int shift) {
  clear_bins(room);
  for_quads(d.view, [&](std::uint32_t quad, const float(&x)[4], std::uint32_t valid) {
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
      if (!(valid >> i & 1) || x[i] < d.threshold) continue;
      const std::uint64_t rank = rank_of(x[i], 4 * quad + i);
      if (rank >= first && rank <= last)
        add_to_bin(room, static_cast<std::uint32_t>((rank - first) >> shift), 1, d.mass_of(x[i]));
    }
  });
  __syncthreads();
}

struct rank_range {
  std::uint64_t first, last;
};
/// Lists the ranks in `range` whose values lie in bins [first_bin, last_bin], as far as there is room, and returns the
/// smallest and the largest of all of them.
__device__ rank_range list_ranks(const row_draw& d, block_room& room, std::uint32_t first_bin, std::uint32_t last_bin,
                                 rank_range range) {
  if (threadIdx.x == 0) room.n_listed = 0;
  __syncthreads();
  std::uint64_t least = last_rank, most = 0;
  for_quads(d.view, [&](std::uint32_t quad, const float(&x)[4], std::uint32_t valid) {
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
      if (!(valid >> i & 1) || x[i] < d.threshold) continue;
      const std::uint32_t bin = d.bin_of(x[i]);
      if (bin < first_bin || bin > last_bin) continue;
      const std::uint64_t rank = rank_of(x[i], 4 * quad + i);
      if (rank < range.first || rank > range.last) continue;
      least = rank < least ? rank : least;
      most = rank > most ? rank : most;
      const std::uint32_t at = atomicAdd(&room.n_listed, 1u);
      if (at < n_list) room.list[at] = rank;
    }
  });
  __syncthreads();
  return {block_min(least, room), ~block_min(~most, room)};
}

/// The rank at which the running count (or mass) over the whole row reaches the target, and the mass up to there. `at`:
/// the bin of fill_value_bins in which that happens. The bins do not survive.
struct border {
  std::uint64_t rank, mass;
};
__device__ border find_border(const row_draw& d, block_room& room, bool by_mass, std::uint64_t target, crossing at) {
  std::uint64_t count_before = at.count_before, mass_before = at.mass_before;
  std::uint32_t n = at.count;
  rank_range range = list_ranks(d, room, at.index, at.index, {0, last_rank});
  while (n > n_list) {
    const int bits = 64 - __clzll(static_cast<long long>(range.last - range.first));
    const int shift = bits > 11 ? bits - 11 : 0;
    fill_rank_bins(d, room, range.first, range.last, shift);
    const crossing c = find_crossing(
        by_mass, room, [&](std::uint32_t, std::uint64_t) { return target - (by_mass ? mass_before : count_before); },
        bin_items{room});
    count_before += c.count_before;
    mass_before += c.mass_before;
    n = c.count;
    const std::uint64_t first = range.first + (std::uint64_t{c.index} << shift);
    const std::uint64_t size = std::uint64_t{1} << shift;
    range = list_ranks(d, room, 0, n_bins - 1, {first, range.last - first < size ? range.last : first + size - 1});
  }
  sort_list(room, n);
  const crossing c = find_crossing(
      by_mass, room, [&](std::uint32_t, std::uint64_t) { return target - (by_mass ? mass_before : count_before); },
      list_items{room, d, n});
  return {room.list[c.index], mass_before + c.mass_before + c.mass};
}

/// The best score over all tokens up to the cut; the exact noise is computed only for those that may win.
__device__ std::uint64_t race(const row_draw& d, block_room& room, std::uint64_t cut) {
  if (threadIdx.x == 0) room.bound = 0xffffffffu;
  __syncthreads();
  const float scale2 = d.scale * 1.442695041f;
  const volatile std::uint32_t* const bound_key = &room.bound;
  std::uint64_t best = last_rank;
  for_quads(d.view, [&](std::uint32_t quad, const float(&x)[4], std::uint32_t valid) {
    std::uint32_t runs = 0;
#pragma unroll
    for (unsigned i = 0; i < 4; ++i)
      if ((valid >> i & 1) && x[i] >= d.threshold && rank_of(x[i], 4 * quad + i) <= cut) runs |= 1u << i;
    if (!__any_sync(0xffffffffu, runs)) return;
    const philox_words words = draw_words(d.key.seed, d.key.choice, d.key.position, quad);
    float low[4], high = INFINITY;
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
      const race_bounds b = bounds_of(words.w[i], (x[i] - d.top) * scale2);
      low[i] = b.low;
      if (runs >> i & 1) high = fminf(high, b.high);
    }
    const std::uint32_t mine = __reduce_min_sync(0xffffffffu, key_of(high));
    if (threadIdx.x % 32 == 0 && mine < *bound_key) atomicMin(&room.bound, mine);
    __syncwarp();
    const float bound = value_of(*bound_key) + race_margin;
#pragma unroll 1
    for (unsigned i = 0; i < 4; ++i) {
      const float own_low = i == 0 ? low[0] : i == 1 ? low[1] : i == 2 ? low[2] : low[3];
      if (!(runs >> i & 1) || own_low > bound) continue;
      const float own = i == 0 ? x[0] : i == 1 ? x[1] : i == 2 ? x[2] : x[3];
      const std::uint64_t rank = score_rank(own, d.top, d.scale, d.key, 4 * quad + i);
      best = rank < best ? rank : best;
    }
  });
  return block_min(best, room);
}

/// The best score among list[0, n).
__device__ std::uint64_t race_list(const row_draw& d, block_room& room, std::uint32_t n) {
  std::uint64_t best = last_rank;
  for (std::uint32_t i = threadIdx.x; i < n; i += n_finish_threads) {
    const std::uint64_t rank =
        score_rank(value_of_rank(room.list[i]), d.top, d.scale, d.key, static_cast<std::uint32_t>(room.list[i]));
    best = rank < best ? rank : best;
  }
  return block_min(best, room);
}

/// The best score among what the scan's chunks named.
__device__ std::uint64_t race_candidates(const row_draw& d, block_room& room, const chunk_part* parts,
                                         std::uint32_t n_chunks) {
  std::uint64_t best = last_rank;
  const auto run = [&](std::uint32_t token) {
    const std::uint64_t rank = score_rank(value_at(d.view, token), d.top, d.scale, d.key, token);
    best = rank < best ? rank : best;
  };
  bool too_many = false;
  for (std::uint32_t i = threadIdx.x; i < n_chunks * max_candidates; i += n_finish_threads) {
    const chunk_part& part = parts[i / max_candidates];
    too_many = too_many || part.n_candidates > max_candidates;
    if (i % max_candidates < part.n_candidates && part.n_candidates <= max_candidates)
      run(part.candidates[i % max_candidates]);
  }
  if (__syncthreads_or(too_many))
    for (std::uint32_t c = 0; c < n_chunks; ++c) {
      if (parts[c].n_candidates <= max_candidates) continue;
      const std::uint32_t last = min(d.view.vocab, (c + 1) * chunk_tokens);
      for (std::uint32_t token = c * chunk_tokens + threadIdx.x; token < last; token += n_finish_threads) run(token);
    }
  return block_min(best, room);
}

__device__ std::uint64_t draw_filtered(row_draw d, block_room& room, const slot_sampling& slot) {
  if (slot.min_p > 0)
    d.threshold = static_cast<float>(d.top + log(fmin(static_cast<double>(slot.min_p), 1.0)) / d.scale);
  fill_value_bins(d, room);
  const std::uint32_t k = slot.top_k > 0 ? static_cast<std::uint32_t>(slot.top_k) : 0xffffffffu;
  const double share = fmax(static_cast<double>(slot.top_p), 0.0);
  crossing at = find_crossing(
      false, room, [&](std::uint32_t, std::uint64_t) { return k; }, bin_items{room});
  const bool by_count = k < at.total_count, by_mass = slot.top_p < 1;
  const std::uint64_t eligible_mass = at.total_mass;
  if (!by_count && by_mass)
    at = find_crossing(
        true, room, [&](std::uint32_t, std::uint64_t m) { return part_of(share, m); }, bin_items{room});
  const bool all = !by_count && !by_mass;
  const std::uint32_t last_bin = all ? n_bins - 1 : at.index;
  std::uint32_t n = all ? at.total_count : at.count_before + at.count;

  if (n <= n_list) {  // all that can stay fits into the list
    list_ranks(d, room, 0, last_bin, {0, last_rank});
    if (!all) sort_list(room, n);
    std::uint64_t mass = eligible_mass;
    if (by_count && by_mass) {
      const crossing c = find_crossing(
          false, room, [&](std::uint32_t, std::uint64_t) { return k; }, list_items{room, d, n});
      mass = c.mass_before + c.mass;
    }
    if (by_count) n = k;
    if (by_mass) {
      const std::uint64_t wanted = part_of(share, mass);
      n = find_crossing(
              true, room, [&](std::uint32_t, std::uint64_t) { return wanted; }, list_items{room, d, n})
              .index +
          1;
    }
    return race_list(d, room, n);
  }
  std::uint64_t cut = last_rank;
  if (by_count) {
    const border b = find_border(d, room, false, k, at);
    cut = b.rank;
    if (by_mass) {
      const std::uint64_t wanted = part_of(share, b.mass);
      fill_value_bins(d, room);
      at = find_crossing(
          true, room, [&](std::uint32_t, std::uint64_t) { return wanted; }, bin_items{room});
      const std::uint64_t rank = find_border(d, room, true, wanted, at).rank;
      cut = rank < cut ? rank : cut;
    }
  } else if (by_mass) {
    cut = find_border(d, room, true, part_of(share, eligible_mass), at).rank;
  }
  return race(d, room, cut);
}

/// Waits for the row's mask and copies it. False: it did not come.
__device__ bool await_mask(const sample_args& a, const sample_row& row, std::uint32_t* mask) {
  bool open = true;
  if (threadIdx.x == 0) {
    const std::uint64_t wanted = *a.gate_value, start = card_clock();
    while (a.gates[row.gate_word] < wanted) {
      open = card_clock() - start < a.gate_patience_ns;
      if (!open) break;
      __nanosleep(500);
    }
    __threadfence_system();
  }
  if (!__syncthreads_and(open)) return false;
  // The host wrote it while this step ran: not from any cache.
  const std::uint32_t n_words = (a.vocab + 31) / 32;
  const volatile std::uint32_t* const from = a.masks + std::size_t{row.mask_row} * n_words;
  for (std::uint32_t i = threadIdx.x; i < n_words; i += n_finish_threads) mask[i] = from[i];
  __syncthreads();
  return true;
}

/// Block r: row r. Dynamic shared memory: bits of the quads that have a bias, bits of the tokens that are allowed.
__global__ __launch_bounds__(n_finish_threads, 2) void finish_kernel(const sample_args a, const chunk_part* all_parts) {
  std::uint32_t* const bits = dynamic_shared<std::uint32_t>();
  __shared__ block_room room;
  if (blockIdx.x >= *a.n_rows) return;
  const sample_row row = a.rows[blockIdx.x];
  if (row.flags & sample_skip) return;
  const std::uint32_t n_chunks = chunks_of(a.vocab), n_quads = (a.vocab + 3) / 4;
  const chunk_part* const parts = all_parts + std::size_t{blockIdx.x} * n_chunks;
  const slot_sampling& slot = a.slots[row.slot];
  const draw_rules rules = rules_of(slot, a.vocab);
  const auto finish = [&](std::uint32_t token, std::uint32_t flags, float logprob) {
    if (threadIdx.x != 0) return;
    a.results[blockIdx.x] = {flags ? -1 : static_cast<std::int32_t>(token), flags, logprob, 0};
    a.last_token[row.slot] = static_cast<std::int32_t>(flags ? 0 : token);  // something that a next step may look up
    if (!flags && slot.penalizes) ++a.counts[std::size_t{row.slot} * a.vocab + token];
  };

  bool bad = false;
  std::uint64_t top_rank = last_rank, raw_rank = last_rank;
  for (std::uint32_t c = threadIdx.x; c < n_chunks; c += n_finish_threads) {
    const chunk_part& part = parts[c];
    bad = bad || part.bad;
    const std::uint64_t top = rank_of(part.top, part.top_token), raw = rank_of(part.raw_top, 0);
    top_rank = top < top_rank ? top : top_rank;
    raw_rank = raw < raw_rank ? raw : raw_rank;
  }
  if (__syncthreads_or(bad)) return finish(0, not_finite, 0);
  top_rank = block_min(top_rank, room);
  double log_sum = 0;
  if (row.flags & sample_logprob) {
    const double raw_top = value_of_rank(block_min(raw_rank, room));
    double sum = 0;
    for (std::uint32_t c = threadIdx.x; c < n_chunks; c += n_finish_threads)
      sum += parts[c].raw_sum * exp(parts[c].raw_top - raw_top);
    log_sum = raw_top + log(block_sum(sum, room));
  }

  row_draw d{view_of(a, row, slot), 0, rules.scale, -INFINITY, {slot.seed, slot.choice, row.position}};
  const bool masked = row.flags & sample_masked;
  if (masked) {
    std::uint32_t* const mask = bits + (n_quads + 31) / 32;
    if (!await_mask(a, row, mask)) return finish(0, gate_closed, 0);
    d.view.mask = mask;
  }
  if (d.view.n_biases && (masked || rules.filtered)) note_biases(d.view, bits, 0, n_quads);
  if (masked) {
    top_rank = last_rank;
    for_quads(d.view, [&](std::uint32_t quad, const float(&x)[4], std::uint32_t valid) {
#pragma unroll
      for (unsigned i = 0; i < 4; ++i)
        if (valid >> i & 1) {
          const std::uint64_t rank = rank_of(x[i], 4 * quad + i);
          top_rank = rank < top_rank ? rank : top_rank;
        }
    });
    top_rank = block_min(top_rank, room);
    if (top_rank == last_rank) return finish(0, nothing_allowed, 0);
  }
  d.top = value_of_rank(top_rank);

  std::uint32_t token = static_cast<std::uint32_t>(top_rank);
  if (rules.filtered)
    token = static_cast<std::uint32_t>(draw_filtered(d, room, slot));
  else if (!rules.greedy)
    token = static_cast<std::uint32_t>(masked ? race(d, room, last_rank) : race_candidates(d, room, parts, n_chunks));
  const double raw = a.logits[std::size_t{row.logits_row} * a.ld_logits + token];
  finish(token, 0, row.flags & sample_logprob ? static_cast<float>(raw - log_sum) : 0.0f);
}

}  // namespace

cudaError_t finish_samples(const sample_args& a, const chunk_part* parts, cudaStream_t stream) {
  const std::uint32_t words = (a.vocab + 127) / 128 + (a.masks ? (a.vocab + 31) / 32 : 0);
  if (const cudaError_t code =
          cudaFuncSetAttribute(finish_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(words * 4)))
    return code;
  return launch_kernel(finish_kernel, a.max_rows, n_finish_threads, words * 4, stream, a, parts);
}

}  // namespace troupe::kernels::gpu
