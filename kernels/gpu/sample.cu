#include "kernels/gpu/sample.hpp"

#include "kernels/gpu/card_clock.cuh"
#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/sample_finish.cuh"
#include "kernels/gpu/sample_row.cuh"

// Two kernels. scan: many blocks per row read the logits once; they find the largest value and the raw logits' sum, and
// throw a row's unfiltered draw, naming the few tokens that can have won it. finish: a block per row puts that together
// for most rows at once; filtered rows, and rows that wait for a mask, are gone through there again. Around them: what
// slots begin with, and the results' way out.

namespace troupe::kernels::gpu {
namespace {

constexpr unsigned n_scan_threads = 256;
constexpr unsigned n_scan_quads = chunk_tokens / 4 / n_scan_threads;  // per thread
constexpr unsigned n_scan_warps = n_scan_threads / 32;

/// The largest of all threads' keys, to all of them. `room` is not touched by the next call with another room.
__device__ std::uint32_t block_max(std::uint32_t key, std::uint32_t (&room)[n_scan_warps]) {
  key = __reduce_max_sync(0xffffffffu, key);
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = key;
  __syncthreads();
#pragma unroll
  for (unsigned w = 0; w < n_scan_warps; ++w) key = max(key, room[w]);
  return key;
}

/// A thread's quads of a chunk: quad j is number first + j * n_scan_threads of the row.
struct scan_quads {
  std::uint32_t first;
  float x[n_scan_quads][4];  ///< raw logits, then values, then lower bounds of scores
  std::uint32_t valid[n_scan_quads];
  __device__ std::uint32_t quad(unsigned j) const { return first + j * n_scan_threads; }
};

/// What a block's threads exchange. Every reduction has a room of its own, so that it takes one barrier.
struct scan_room {
  std::uint32_t raw[n_scan_warps], top[n_scan_warps], token[n_scan_warps], bound[n_scan_warps];
  std::uint32_t biased[chunk_tokens / 4 / 32], n_found, found[max_candidates];
  float sum[n_scan_warps];
};

__device__ void fetch_chunk(const row_view& view, scan_quads& q) {
  const std::uint32_t n_quads = (view.vocab + 3) / 4;
#pragma unroll
  for (unsigned j = 0; j < n_scan_quads; ++j) {
    q.valid[j] = 0;
    if (q.quad(j) < n_quads) {
      q.valid[j] = fetch(view, q.quad(j), q.x[j]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) q.x[j][i] = -INFINITY;
    }
  }
}

__device__ bool any_not_finite(const scan_quads& q) {
  bool bad = false;
#pragma unroll
  for (unsigned j = 0; j < n_scan_quads; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      bad = bad || ((q.valid[j] >> i & 1) && (__float_as_uint(q.x[j][i]) & 0x7fffffffu) >= 0x7f800000u);
  return bad;
}

/// The largest of the block's values, to all threads.
__device__ float largest(const scan_quads& q, std::uint32_t (&room)[n_scan_warps]) {
  float most = -INFINITY;
#pragma unroll
  for (unsigned j = 0; j < n_scan_quads; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) most = fmaxf(most, q.x[j][i]);
  return value_of(block_max(key_of(most), room));
}

/// The sum of exp(x - top) over a warp.
__device__ float warp_exp_sum(const scan_quads& q, float top) {
  float sum = 0;
#pragma unroll
  for (unsigned j = 0; j < n_scan_quads; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) sum += __expf(q.x[j][i] - top);
  return warp_sum(sum);
}

/// The lowest token of a warp that has this value.
__device__ std::uint32_t lowest_token(const scan_quads& q, float value) {
  std::uint32_t token = 0xffffffffu;
#pragma unroll
  for (unsigned j = n_scan_quads; j-- > 0;)  // downwards, so that the lowest stays
#pragma unroll
    for (unsigned i = 4; i-- > 0;)
      if (q.x[j][i] == value) token = 4 * q.quad(j) + i;
  return __reduce_min_sync(0xffffffffu, token);
}

/// Names the tokens that can have won an unfiltered draw: those whose lower bound is not above the least upper bound.
__device__ void name_candidates(scan_quads& q, float top, float scale, const noise_key& key, scan_room& room) {
  const float scale2 = scale * 1.442695041f;
  float high = INFINITY;
#pragma unroll
  for (unsigned j = 0; j < n_scan_quads; ++j) {
    const philox_words words = draw_words(key.seed, key.choice, key.position, q.quad(j));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const race_bounds b = bounds_of(words.w[i], (q.x[j][i] - top) * scale2);
      q.x[j][i] = b.low;
      high = fminf(high, b.high);
    }
  }
  const float bound = value_of(~block_max(~key_of(high), room.bound)) + race_margin;
#pragma unroll
  for (unsigned j = 0; j < n_scan_quads; ++j)
#pragma unroll
    for (unsigned i = 0; i < 4; ++i)
      if (q.x[j][i] <= bound && (q.valid[j] >> i & 1)) {
        const std::uint32_t at = atomicAdd(&room.n_found, 1u);
        if (at < max_candidates) room.found[at] = 4 * q.quad(j) + i;
      }
}

/// Block (c, r): chunk c of row r. 16 KB of logits read, all of a thread's at once.
__global__ __launch_bounds__(n_scan_threads) void scan_kernel(const sample_args a, chunk_part* parts) {
  __shared__ scan_room room;
  if (blockIdx.y >= *a.n_rows) return;
  const sample_row row = a.rows[blockIdx.y];
  if (row.flags & sample_skip) return;
  const slot_sampling slot = a.slots[row.slot];
  const draw_rules rules = rules_of(slot, a.vocab);
  row_view view = view_of(a, row, slot);
  const std::uint32_t first_quad = blockIdx.x * (chunk_tokens / 4), warp = threadIdx.x / 32;
  const bool leads = threadIdx.x % 32 == 0;  // a warp's lane that writes what the warp found
  chunk_part* const part = parts + std::size_t{blockIdx.y} * gridDim.x + blockIdx.x;

  scan_quads q;
  q.first = first_quad + threadIdx.x;
  fetch_chunk(view, q);
  if (threadIdx.x == 0) room.n_found = 0;
  const float raw_top = largest(q, room.raw);
  const bool bad = __syncthreads_or(any_not_finite(q));
  if (row.flags & sample_logprob) {
    const float sum = warp_exp_sum(q, raw_top);
    if (leads) room.sum[warp] = sum;
  }

  float top = raw_top;
  const bool usable = !(row.flags & sample_masked) && !bad;
  if (usable) {
    if (view.n_biases || view.counts) {
      if (view.n_biases) note_biases(view, room.biased, first_quad, chunk_tokens / 4);
#pragma unroll
      for (unsigned j = 0; j < n_scan_quads; ++j) adjust(view, q.quad(j), q.valid[j], q.x[j]);
      top = largest(q, room.top);
    }
    const std::uint32_t token = lowest_token(q, top);
    if (leads) room.token[warp] = token;
    if (!rules.greedy && !rules.filtered)
      name_candidates(q, top, rules.scale, {slot.seed, slot.choice, row.position}, room);
  }
  __syncthreads();
  if (threadIdx.x < max_candidates) part->candidates[threadIdx.x] = room.found[threadIdx.x];
  if (threadIdx.x == 0) {
    float sum = 0;
    if (row.flags & sample_logprob)
      for (float s : room.sum) sum += s;
    std::uint32_t top_token = 0xffffffffu;
    if (usable)
      for (std::uint32_t t : room.token) top_token = min(top_token, t);
    part->raw_top = raw_top;
    part->raw_sum = sum;
    part->top = top;
    part->top_token = top_token;
    part->bad = bad;
    part->n_candidates = room.n_found;
  }
}

/// Volatile, so that a line of an earlier plan is not taken out of a cache. By words of 8 bytes, since a volatile
/// vector is read member by member: a warp then asks for the same bytes of the bus several times.
using word = std::uint64_t;
static_assert(sizeof(slot_sampling) % sizeof(word) == 0 && sizeof(bias_entry) == sizeof(word));
constexpr unsigned n_entry_words = sizeof(slot_entry) / sizeof(word);
constexpr unsigned n_admit_threads = 256;
constexpr unsigned n_admit_trips = 4;  // words that a thread has on their way at once

/// Block i: entry i.
__global__ __launch_bounds__(n_admit_threads) void admit_slots_kernel(const volatile word* entries,
                                                                      const volatile word* from,
                                                                      slot_sampling* sampling, bias_entry* biases) {
  __shared__ word held[n_entry_words];  // one trip for what all threads need
  if (threadIdx.x < n_entry_words) held[threadIdx.x] = entries[std::size_t{blockIdx.x} * n_entry_words + threadIdx.x];
  __syncthreads();
  const slot_entry& e = reinterpret_cast<const slot_entry&>(held);
  if (threadIdx.x < sizeof(slot_sampling) / sizeof(word))
    reinterpret_cast<word*>(sampling + e.slot)[threadIdx.x] = held[threadIdx.x];
  const std::uint32_t n = e.sampling.n_biases;
  from += e.first_bias;
  word* const to = reinterpret_cast<word*>(biases + e.sampling.bias_offset);
  for (std::uint32_t first = threadIdx.x; first < n; first += n_admit_trips * n_admit_threads) {
    word w[n_admit_trips];
#pragma unroll
    for (unsigned j = 0; j < n_admit_trips; ++j)
      if (const std::uint32_t i = first + j * n_admit_threads; i < n) w[j] = from[i];
#pragma unroll
    for (unsigned j = 0; j < n_admit_trips; ++j)
      if (const std::uint32_t i = first + j * n_admit_threads; i < n) to[i] = w[j];
  }
}

__global__ void clear_counts_kernel(const count_reset* resets, const std::uint32_t* n, std::uint32_t* counts,
                                    std::uint32_t vocab) {
  if (blockIdx.y >= *n) return;
  std::uint32_t* const row = counts + std::size_t{resets[blockIdx.y].slot} * vocab;
  for (std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < vocab; i += gridDim.x * blockDim.x) row[i] = 0;
}
__global__ void count_history_kernel(const count_reset* resets, const std::uint32_t* n, const std::int32_t* history,
                                     std::uint32_t* counts, std::uint32_t vocab) {
  if (blockIdx.y >= *n) return;
  const count_reset r = resets[blockIdx.y];
  std::uint32_t* const row = counts + std::size_t{r.slot} * vocab;
  for (std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < r.history_count; i += gridDim.x * blockDim.x) {
    const std::uint32_t token = static_cast<std::uint32_t>(history[r.history_offset + i]);
    if (token >= vocab) continue;
    if (i < r.prompt_length)
      atomicOr(row + token, 0x80000000u);
    else
      atomicAdd(row + token, 1u);
  }
}

__global__ void publish_results_kernel(const sample_result* results, const std::uint32_t* n_rows, uint4* pinned_results,
                                       const std::uint64_t* seq, volatile std::uint64_t* pinned_seq,
                                       const std::uint64_t* began) {
  const uint4* const from = reinterpret_cast<const uint4*>(results);
  for (std::uint32_t i = threadIdx.x; i < *n_rows; i += blockDim.x) pinned_results[i] = from[i];
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x == 0) {
    if (began != nullptr) {
      pinned_seq[1] = *began;
      pinned_seq[2] = card_clock();
    }
    __threadfence_system();
    *pinned_seq = *seq;
  }
}

}  // namespace

std::uint64_t sample_scratch_bytes(std::uint32_t max_rows, std::uint32_t vocab) {
  return std::uint64_t{max_rows} * chunks_of(vocab) * sizeof(chunk_part);
}

cudaError_t sample(const sample_args& a, cudaStream_t stream) {
  if (a.max_rows == 0) return cudaSuccess;
  if (a.vocab == 0) return cudaErrorInvalidValue;
  chunk_part* const parts = static_cast<chunk_part*>(a.scratch);
  const dim3 grid(chunks_of(a.vocab), a.max_rows);
  if (const cudaError_t code = launch_kernel(scan_kernel, grid, n_scan_threads, 0, stream, a, parts)) return code;
  return finish_samples(a, parts, stream);
}

cudaError_t admit_slots(const slot_entry* pinned_entries, std::uint32_t n, const bias_entry* pinned_biases,
                        slot_sampling* sampling, bias_entry* biases, cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  return launch_kernel(admit_slots_kernel, n, n_admit_threads, 0, stream,
                       reinterpret_cast<const volatile word*>(pinned_entries),
                       reinterpret_cast<const volatile word*>(pinned_biases), sampling, biases);
}

cudaError_t reset_counts(const count_reset* resets, const std::uint32_t* n, std::uint32_t max_n,
                         const std::int32_t* history, std::uint32_t* counts, std::uint32_t vocab, cudaStream_t stream) {
  if (max_n == 0) return cudaSuccess;
  const dim3 grid(16, max_n);
  if (const cudaError_t code = launch_kernel(clear_counts_kernel, grid, 256, 0, stream, resets, n, counts, vocab))
    return code;
  return launch_kernel(count_history_kernel, grid, 256, 0, stream, resets, n, history, counts, vocab);
}

cudaError_t publish_results(const sample_result* results, const std::uint32_t* n_rows, std::uint32_t max_rows,
                            sample_result* pinned_results, const std::uint64_t* seq, volatile std::uint64_t* pinned_seq,
                            cudaStream_t stream, const std::uint64_t* began) {
  static_assert(sizeof(sample_result) == sizeof(uint4));
  const unsigned threads = max_rows < 32 ? 32 : max_rows < 512 ? (max_rows + 31) / 32 * 32 : 512;
  return launch_kernel(publish_results_kernel, 1, threads, 0, stream, results, n_rows,
                       reinterpret_cast<uint4*>(pinned_results), seq, pinned_seq, began);
}

}  // namespace troupe::kernels::gpu
