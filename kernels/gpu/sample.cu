#include "kernels/gpu/sample.hpp"

#include "kernels/gpu/card_clock.cuh"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/sample_finish.cuh"
#include "kernels/gpu/sample_row.cuh"

// Two kernels. scan: many blocks per row read the logits once; they find the largest value and the raw logits' sum, and
// throw a row's unfiltered draw, naming the few tokens that can have won it. finish: a block per row puts that together
// for most rows at once; filtered rows, and rows that wait for a mask, are gone through there again.

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

/// Block (c, r): chunk c of row r. 16 KB of logits read, all of a thread's at once.
__global__ __launch_bounds__(n_scan_threads) void scan_kernel(const sample_args a, chunk_part* parts) {
  __shared__ std::uint32_t raw_room[n_scan_warps], top_room[n_scan_warps], token_room[n_scan_warps],
      bound_room[n_scan_warps], biased[chunk_tokens / 4 / 32], n_found, found[max_candidates];
  __shared__ float sum_room[n_scan_warps];
  if (blockIdx.y >= *a.n_rows) return;
  const sample_row row = a.rows[blockIdx.y];
  if (row.flags & sample_skip) return;
  const slot_sampling slot = a.slots[row.slot];
  const draw_rules rules = rules_of(slot, a.vocab);
  row_view view = view_of(a, row, slot);
  const std::uint32_t first_quad = blockIdx.x * (chunk_tokens / 4), n_quads = (a.vocab + 3) / 4;
  chunk_part* const part = parts + std::size_t{blockIdx.y} * gridDim.x + blockIdx.x;

  float x[n_scan_quads][4];
  std::uint32_t valid[n_scan_quads];
#pragma unroll
  for (unsigned j = 0; j < n_scan_quads; ++j) {
    const std::uint32_t quad = first_quad + j * n_scan_threads + threadIdx.x;
    valid[j] = 0;
    if (quad < n_quads) {
      valid[j] = fetch(view, quad, x[j]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[j][i] = -INFINITY;
    }
  }
  if (threadIdx.x == 0) n_found = 0;

  bool bad = false;
  float most = -INFINITY;
#pragma unroll
  for (unsigned j = 0; j < n_scan_quads; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bad = bad || ((valid[j] >> i & 1) && (__float_as_uint(x[j][i]) & 0x7fffffffu) >= 0x7f800000u);
      most = fmaxf(most, x[j][i]);
    }
  const float raw_top = value_of(block_max(key_of(most), raw_room));
  bad = __syncthreads_or(bad);
  if (row.flags & sample_logprob) {
    float sum = 0;
#pragma unroll
    for (unsigned j = 0; j < n_scan_quads; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum += __expf(x[j][i] - raw_top);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sum_room[threadIdx.x / 32] = sum;
  }

  float top = raw_top;
  std::uint32_t top_token = 0xffffffffu;
  const bool masked = row.flags & sample_masked;
  if (!masked && !bad) {
    if (view.n_biases || view.counts) {
      if (view.n_biases) note_biases(view, biased, first_quad, chunk_tokens / 4);
      most = -INFINITY;
#pragma unroll
      for (unsigned j = 0; j < n_scan_quads; ++j) {
        adjust(view, first_quad + j * n_scan_threads + threadIdx.x, valid[j], x[j]);
#pragma unroll
        for (int i = 0; i < 4; ++i) most = fmaxf(most, x[j][i]);
      }
      top = value_of(block_max(key_of(most), top_room));
    }
#pragma unroll
    for (unsigned j = n_scan_quads; j-- > 0;)  // downwards, so that the lowest stays
#pragma unroll
      for (unsigned i = 4; i-- > 0;)
        if (x[j][i] == top) top_token = 4 * (first_quad + j * n_scan_threads + threadIdx.x) + i;
    top_token = __reduce_min_sync(0xffffffffu, top_token);
    if (threadIdx.x % 32 == 0) token_room[threadIdx.x / 32] = top_token;

    if (!rules.greedy && !rules.filtered) {
      const float scale2 = rules.scale * 1.442695041f;
      float high = INFINITY;
#pragma unroll
      for (unsigned j = 0; j < n_scan_quads; ++j) {
        const philox_words words =
            draw_words(slot.seed, slot.choice, row.position, first_quad + j * n_scan_threads + threadIdx.x);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const race_bounds b = bounds_of(words.w[i], (x[j][i] - top) * scale2);
          x[j][i] = b.low;
          high = fminf(high, b.high);
        }
      }
      const float bound = value_of(~block_max(~key_of(high), bound_room)) + race_margin;
#pragma unroll
      for (unsigned j = 0; j < n_scan_quads; ++j)
#pragma unroll
        for (unsigned i = 0; i < 4; ++i)
          if (x[j][i] <= bound && (valid[j] >> i & 1)) {
            const std::uint32_t at = atomicAdd(&n_found, 1u);
            if (at < max_candidates) found[at] = 4 * (first_quad + j * n_scan_threads + threadIdx.x) + i;
          }
    }
  }
  __syncthreads();
  if (threadIdx.x < max_candidates) part->candidates[threadIdx.x] = found[threadIdx.x];
  if (threadIdx.x == 0) {
    float sum = 0;
    if (row.flags & sample_logprob)
      for (float s : sum_room) sum += s;
    if (!masked && !bad)
      for (std::uint32_t t : token_room) top_token = min(top_token, t);
    part->raw_top = raw_top;
    part->raw_sum = sum;
    part->top = top;
    part->top_token = top_token;
    part->bad = bad;
    part->n_candidates = n_found;
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
  scan_kernel<<<dim3(chunks_of(a.vocab), a.max_rows), n_scan_threads, 0, stream>>>(a, parts);
  if (const cudaError_t code = cudaGetLastError()) return code;
  return finish_samples(a, parts, stream);
}

cudaError_t reset_counts(const count_reset* resets, const std::uint32_t* n, std::uint32_t max_n,
                         const std::int32_t* history, std::uint32_t* counts, std::uint32_t vocab, cudaStream_t stream) {
  if (max_n == 0) return cudaSuccess;
  const dim3 grid(16, max_n);
  clear_counts_kernel<<<grid, 256, 0, stream>>>(resets, n, counts, vocab);
  if (const cudaError_t code = cudaGetLastError()) return code;
  count_history_kernel<<<grid, 256, 0, stream>>>(resets, n, history, counts, vocab);
  return cudaGetLastError();
}

cudaError_t publish_results(const sample_result* results, const std::uint32_t* n_rows, std::uint32_t max_rows,
                            sample_result* pinned_results, const std::uint64_t* seq, volatile std::uint64_t* pinned_seq,
                            cudaStream_t stream, const std::uint64_t* began) {
  static_assert(sizeof(sample_result) == sizeof(uint4));
  const unsigned threads = max_rows < 32 ? 32 : max_rows < 512 ? (max_rows + 31) / 32 * 32 : 512;
  publish_results_kernel<<<1, threads, 0, stream>>>(results, n_rows, reinterpret_cast<uint4*>(pinned_results), seq,
                                                    pinned_seq, began);
  return cudaGetLastError();
}

}  // namespace troupe::kernels::gpu
