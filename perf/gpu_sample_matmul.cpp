// The sampler and the row-stable products of kernels/gpu on this card, each in a graph over rotating buffers larger
// than the L2 cache, medians of rounds. "of floor": the bytes that have to be read (or, for many tokens, twice the
// multiply-adds at 680 TFLOP/s, what an H200 sustains) against the time; the bandwidth is the better one, in the same
// run, of a copy of 1 GiB (read and written) and a product that reads a 2 GiB matrix once.
//
//   perf_gpu_sample_matmul [rounds]
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include "kernels/gpu/gemv.hpp"
#include "kernels/gpu/matmul.hpp"
#include "kernels/gpu/sample.hpp"
#include "perf/gpu_timing.hpp"

using namespace troupe::kernels;
using namespace troupe::kernels::gpu;

namespace {

using perf::check;

template <class T>
T* room(std::size_t n) {
  T* p = nullptr;
  check(cudaMalloc(reinterpret_cast<void**>(&p), n * sizeof(T)));
  check(cudaMemset(p, 0, n * sizeof(T)));
  return p;
}
template <class T>
T* filled(const std::vector<T>& v) {
  T* p = room<T>(v.size());
  check(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}
/// A million numbers, again and again.
template <class T, class F>
void fill_repeated(T* to, std::size_t n, F f) {
  std::vector<T> tile(std::min<std::size_t>(n, 1 << 20));
  for (T& x : tile) x = f();
  for (std::size_t at = 0; at < n; at += tile.size())
    check(cudaMemcpy(to + at, tile.data(), std::min(tile.size(), n - at) * sizeof(T), cudaMemcpyHostToDevice));
}

double time_of(int n_ops, int rounds, const std::function<cudaError_t(int, cudaStream_t)>& op) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  const double us = perf::microseconds_in_graph(stream, n_ops, rounds, [&](int i) { return op(i, stream); });
  check(cudaStreamDestroy(stream));
  return us;
}

void products(int rounds) {
  const std::size_t pool = std::size_t{1} << 30;  // elements: 2 GiB
  std::uint16_t* const weights = room<std::uint16_t>(pool);
  std::uint32_t state = 1;
  const auto small = [&] {  // bf16 around +-0.01
    state = state * 1664525u + 1013904223u;
    return static_cast<std::uint16_t>((state >> 31 << 15) | (0x3c00u + (state >> 20 & 0xffu)));
  };
  fill_repeated(weights, pool, small);
  std::uint16_t* const x = room<std::uint16_t>(2048 * 14336);
  fill_repeated(x, 2048 * 14336, small);
  float* const y = room<float>(std::size_t{2048} * 128256);
  std::uint32_t* const n = room<std::uint32_t>(1);
  const auto run = [&](std::uint32_t rows, std::uint32_t cols, std::uint32_t n_tokens, int n_ops,
                       const std::function<decltype(matmul)>& compute = matmul) {
    check(cudaMemcpy(n, &n_tokens, 4, cudaMemcpyHostToDevice));
    const std::size_t size = std::size_t{rows} * cols, copies = pool / size;
    return time_of(n_ops, rounds, [&](int i, cudaStream_t stream) {
      return compute({weights + static_cast<std::size_t>(i) % copies * size, x, dtype::bf16, rows, cols, y, dtype::f32,
                      rows, false},
                     n, n_tokens, stream);
    });
  };
  const double whole = run(1u << 18, 4096, 1, 1);
  const double copy = time_of(1, rounds, [&](int, cudaStream_t stream) {
    return cudaMemcpyAsync(weights + pool / 2, weights, pool, cudaMemcpyDeviceToDevice, stream);
  });
  const double bytes_read = static_cast<double>(pool) * 2,
               bandwidth = bytes_read / std::min(whole, copy);  // bytes per us
  std::printf("a 2 GiB matrix by one token %.2f TB/s, a copy of 1 GiB %.2f TB/s\n\n", bytes_read / whole / 1e6,
              bytes_read / copy / 1e6);
  std::printf("%-16s %6s %10s %9s %9s\n", "bf16 rows x cols", "n", "us", "TFLOP/s", "of floor");
  constexpr std::pair<std::uint32_t, std::uint32_t> shapes[] = {
      {6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}, {2048, 2048}};
  for (auto [rows, cols] : shapes)
    for (std::uint32_t tokens : {1u, 2u, 4u, 8u, 16u, 32u, 64u, 128u, 256u, 1024u, 2048u}) {
      const double us = run(rows, cols, tokens, tokens > 256 ? 4 : 12);
      const double flop = 2.0 * rows * cols * tokens,
                   bytes = 2.0 * rows * cols + 2.0 * tokens * cols + 4.0 * tokens * rows;
      std::printf("%6u x %-7u %6u %10.1f %9.1f %8.0f%%", rows, cols, tokens, us, flop / us / 1e6,
                  100 * std::max(bytes / bandwidth, flop / 680e6) / us);
      for (const gemv_depth depth : {gemv_depth::two, gemv_depth::four, gemv_depth::eight}) {
        if (!can_gemv({weights, x, dtype::bf16, rows, cols, y, dtype::f32, rows, false}, depth, tokens)) continue;
        const double gemv_us = run(rows, cols, tokens, 12, [depth](const matmul_args& a, const std::uint32_t* count, std::uint32_t most, cudaStream_t s) {
          return gemv(a, {}, depth, count, most, s);
        });
        std::printf("   gemv%d %6.1f us %4.0f%%", static_cast<int>(depth), gemv_us, 100 * bytes / bandwidth / gemv_us);
      }
      std::printf("\n");
    }
  check(cudaFree(weights));
  check(cudaFree(x));
  check(cudaFree(y));
  check(cudaFree(n));
}

void draws(int rounds) {
  constexpr std::uint32_t vocab = 128256, max_rows = 256, copies = 4;
  const std::size_t size = std::size_t{max_rows} * vocab;
  float* const logits = room<float>(size * copies);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  fill_repeated(logits, size * copies, [&] { return normal(random); });
  std::uint32_t* const counts = room<std::uint32_t>(size);
  std::int32_t* const last = room<std::int32_t>(max_rows);
  sample_result* const results = room<sample_result>(max_rows);
  void* const scratch = room<std::uint8_t>(sample_scratch_bytes(max_rows, vocab));
  std::uint64_t* const word = room<std::uint64_t>(1);
  struct kind {
    const char* name;
    float temperature, top_p;
    std::int32_t top_k;
    float presence;
    std::uint32_t flags;
  };
  const kind kinds[] = {{"greedy", 0, 1, 0, 0, 0},
                        {"greedy, logprob", 0, 1, 0, 0, sample_logprob},
                        {"unfiltered", 1, 1, 0, 0, 0},
                        {"unfiltered, penalties", 1, 1, 0, 0.5f, 0},
                        {"top_k 40", 1, 1, 40, 0, 0},
                        {"top_p 0.9 (5,000 tokens)", 1, 0.9f, 0, 0, 0},
                        {"top_p 0.9, T 0.5", 0.5f, 0.9f, 0, 0, 0}};
  std::printf("\n%-26s %6s %10s %12s\n", "sample, vocab 128256", "rows", "us", "logits TB/s");
  for (const kind& k : kinds) {
    std::vector<slot_sampling> slots;
    std::vector<sample_row> rows;
    for (std::uint32_t i = 0; i < max_rows; ++i) {
      slots.push_back({i, 0, k.top_k, k.temperature, k.top_p, 0, 1, 0, k.presence, 0, 0, k.presence != 0});
      rows.push_back({i, 100, i, k.flags, 0, 0});
    }
    slot_sampling* const d_slots = filled(slots);
    sample_row* const d_rows = filled(rows);
    bias_entry* const biases = room<bias_entry>(1);
    for (std::uint32_t n : {1u, 8u, 64u, 256u}) {
      std::uint32_t* const d_n = filled(std::vector<std::uint32_t>{n});
      const double us = time_of(copies * 2, rounds, [&](int i, cudaStream_t stream) {
        return sample({logits + static_cast<std::size_t>(i) % copies * size, vocab, vocab, d_rows, d_n, n, d_slots,
                       biases, counts, nullptr, word, word, last, results, scratch},
                      stream);
      });
      std::printf("%-26s %6u %10.1f %12.2f\n", k.name, n, us, 4.0 * n * vocab / us / 1e6);
      check(cudaFree(d_n));
    }
    check(cudaFree(d_slots));
    check(cudaFree(d_rows));
    check(cudaFree(biases));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  cudaDeviceProp card;
  check(cudaGetDeviceProperties(&card, 0));
  std::printf("%s, %d rounds, medians\n", card.name, rounds);
  products(rounds);
  draws(rounds);
}
