// Operators of kernels/gpu/dense.hpp and quant.hpp on one card: microseconds of one, and the bytes that it must move as
// a share of what a plain read moves in the same time, measured in this run. A captured graph holds 8 to 32 calls over
// as many copies of the weights or rows as exceed the cache twice, so that every call finds its operands in memory;
// what a graph's node costs is included. Shapes are those of Llama 3.1 8B.
//
//   perf_gpu_dense
#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/quant.hpp"
#include "perf/gpu_read.cuh"
#include "perf/gpu_timing.hpp"

using namespace troupe::kernels;
using namespace troupe::kernels::gpu;

namespace {

using perf::check;

constexpr std::size_t arena_bytes = std::size_t{4} << 30;

struct bench {
  std::byte* arena = nullptr;
  cudaStream_t stream = nullptr;
  double bandwidth = 0;  ///< bytes per second

  /// Median seconds of one of `calls` enqueued calls, out of a graph.
  double seconds(int calls, const std::function<cudaError_t(int)>& call) const {
    return 1e-6 * perf::microseconds_in_graph(stream, calls, 20, call);
  }
  void report(const std::string& what, double bytes, double s) const {
    std::printf("%-54s %9.2f us %8.1f MB %6.1f %%\n", what.c_str(), 1e6 * s, 1e-6 * bytes, 100 * bytes / bandwidth / s);
    std::fflush(stdout);
  }
};

/// How many operands of this size to walk through, and where the i-th lies in the arena.
struct rotation {
  std::uint64_t bytes;
  int copies;
  explicit rotation(std::uint64_t size) : bytes((size + 255) / 256 * 256) {
    copies = static_cast<int>(std::clamp<std::uint64_t>((std::uint64_t{256} << 20) / bytes, 8, 32));
    while (copies > 1 && bytes * static_cast<std::uint64_t>(copies) > arena_bytes - (std::uint64_t{1} << 30)) --copies;
  }
  std::uint64_t at(int i) const { return (std::uint64_t{1} << 30) + bytes * static_cast<std::uint64_t>(i % copies); }
};

const char* form_name(packed_form f) {
  const char* names[] = {"none", "u4", "u4k", "i8", "i6k", "f8"};
  return names[static_cast<int>(f)];
}

}  // namespace

int main() {
  bench b;
  cudaDeviceProp card;
  check(cudaGetDeviceProperties(&card, 0));
  check(cudaStreamCreate(&b.stream));
  check(cudaMalloc(reinterpret_cast<void**>(&b.arena), arena_bytes));
  // Zero codes and scales are as good to time as others; small numbers elsewhere.
  check(cudaMemset(b.arena, 0, arena_bytes));
  check(fill_normal(b.arena, dtype::bf16, std::uint64_t{64} << 20, 1.0f, 1, b.stream));
  std::uint32_t* number;
  check(cudaMalloc(reinterpret_cast<void**>(&number), 4));
  b.bandwidth = perf::read_bandwidth();
  std::printf("%s, read bandwidth %.0f GB/s\n", card.name, 1e-9 * b.bandwidth);

  const auto set_n = [&](std::uint32_t n) { check(cudaMemcpy(number, &n, 4, cudaMemcpyHostToDevice)); };
  const struct {
    const char* name;
    std::uint32_t rows, cols;
  } matrices[] = {
      {"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate-up", 28672, 4096}, {"down", 4096, 14336}, {"head", 128256, 4096}};
  for (packed_form form : {packed_form::u4, packed_form::u4k, packed_form::i8, packed_form::i6k, packed_form::f8})
    for (const auto& m : matrices)
      for (std::uint32_t n : {1u, 4u, 8u, 16u}) {
        if (n > 1 && std::string(m.name) != "gate-up" && std::string(m.name) != "down") continue;
        for (dtype type : {dtype::f16, dtype::bf16}) {
          if (type == dtype::bf16 && n > 1) continue;
          const std::uint64_t bytes = packed_bytes(form, m.rows, m.cols);
          const rotation r(bytes);
          set_n(n);
          const double s = b.seconds(r.copies, [&](int i) {
            const packed_matmul_args a{{form, m.rows, m.cols, b.arena + r.at(i)},
                                       b.arena,
                                       type,
                                       b.arena + (std::size_t{512} << 20),
                                       dtype::f32,
                                       m.rows,
                                       false};
            return packed_matmul(a, number, n, b.stream);
          });
          const double moved = static_cast<double>(bytes) + n * (2.0 * m.cols + 4.0 * m.rows);
          b.report(std::string("packed_matmul ") + form_name(form) + " " + std::string(name(type)) + " " + m.name +
                       " n " + std::to_string(n),
                   moved, s);
        }
      }
  for (packed_form form : {packed_form::u4, packed_form::u4k, packed_form::i8, packed_form::i6k, packed_form::f8}) {
    const std::uint32_t rows = 28672, cols = 4096;
    const rotation r(packed_bytes(form, rows, cols));
    const double s = b.seconds(r.copies, [&](int i) {
      return dequantize({form, rows, cols, b.arena + r.at(i)}, b.arena + (std::size_t{512} << 20), dtype::bf16,
                        b.stream);
    });
    b.report(std::string("dequantize ") + form_name(form) + " gate-up to bf16",
             static_cast<double>(packed_bytes(form, rows, cols)) + 2.0 * rows * cols, s);
  }

  const std::uint32_t hidden = 4096, ffn = 14336, heads = 32, kv = 8, dim = 128;
  auto* weight = reinterpret_cast<float*>(b.arena);  // f32 numbers, whatever they are
  for (std::uint32_t n : {1u, 64u, 1024u, 8192u}) {
    set_n(n);
    const std::string tokens = " n " + std::to_string(n);
    {
      const rotation r(std::uint64_t{n} * hidden * 6);
      const double s = b.seconds(r.copies, [&](int i) {
        std::byte* at = b.arena + r.at(i);
        const rms_norm_args a{reinterpret_cast<float*>(at),     nullptr,     weight, 0,      1e-5f,
                              at + std::size_t{n} * hidden * 4, dtype::bf16, hidden, nullptr};
        return rms_norm(a, number, n, b.stream);
      });
      b.report("rms_norm 4096" + tokens, 6.0 * n * hidden, s);
    }
    {
      const rotation r(std::uint64_t{n} * ffn * 6);
      const double s = b.seconds(r.copies, [&](int i) {
        std::byte* at = b.arena + r.at(i);
        return gated_activation(gate_activation::silu, at, nullptr, nullptr, at + std::size_t{n} * ffn * 4, dtype::bf16,
                                ffn, number, n, b.stream);
      });
      b.report("silu 14336" + tokens, 6.0 * n * ffn, s);
    }
    {
      const std::uint64_t row = std::uint64_t{heads + 2 * kv} * dim * 2;
      const rotation r(n * row);
      std::vector<std::uint32_t> positions(n);
      for (std::uint32_t i = 0; i < n; ++i) positions[i] = i;
      auto* device =
          reinterpret_cast<std::uint32_t*>(b.arena + (std::size_t{512} << 20));  // positions, slots and pages
      check(cudaMemset(device, 0, std::size_t{4} << 20));
      check(cudaMemcpy(device, positions.data(), n * 4, cudaMemcpyHostToDevice));
      std::byte* cache = b.arena + (std::size_t{600} << 20);  // 8192 positions take 16 MB each for keys and values
      const double s = b.seconds(r.copies, [&](int i) {
        // The page table maps page p to p; slots are zeros.
        const rope_store_args a{
            b.arena + r.at(i),
            dtype::bf16,
            nullptr,
            nullptr,
            nullptr,
            0,
            weight,
            dim,
            false,
            heads,
            kv_pool{cache, cache + (std::size_t{64} << 20), nullptr, nullptr, kv_type::bf16, kv, dim},
            device,
            device + (1 << 18),
            device,
            1u << 10};
        return rope_and_store(a, number, n, b.stream);
      });
      b.report("rope_and_store 32/8 x 128" + tokens, 2.0 * static_cast<double>(n * row), s);
    }
  }
  return 0;
}
