// Matrix products of kernels/cpu against what this processor can do: weight bytes per second with one activation row as
// a share of a plain read of as many bytes, and multiply-adds per second with many rows as a share of a loop of nothing
// but byte products and additions. One thread. Rounds of all measurements are interleaved and medians reported, since
// neighbours disturb single runs.
//
//   perf_matmul [rounds] [type ...]        e.g. perf_matmul 15 Q4_1 Q8_0
#include <immintrin.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/matmul.hpp"

using namespace troupe::kernels;
using namespace troupe::kernels::cpu;

namespace {

/// Of this thread on a core: a busy machine takes turns away, but they do not count.
double seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class F>
double time_of(F&& f) {
  const double start = seconds();
  f();
  return seconds() - start;
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

/// Zeroed, on huge pages where the kernel grants them.
template <class T>
T* arena(std::size_t n) {
  const std::size_t bytes = (n * sizeof(T) + (2u << 20) - 1) >> 21 << 21;
  void* p = std::aligned_alloc(2u << 20, bytes);
  madvise(p, bytes, MADV_HUGEPAGE);
  std::memset(p, 0, bytes);
  return static_cast<T*>(p);
}

void read_all(const std::byte* p, std::size_t bytes) {
  __m128i sum[8] = {};
  for (std::size_t i = 0; i + 128 <= bytes; i += 128)
    for (int j = 0; j < 8; ++j)
      sum[j] = _mm_add_epi8(sum[j], _mm_load_si128(reinterpret_cast<const __m128i*>(p + i + 16 * j)));
  for (__m128i s : sum) asm volatile("" ::"x"(s));
}

constexpr int peak_loops = 1 << 19;

/// Multiply-adds done.
double byte_products_avx2() {
  asm volatile(
      "mov %0, %%ecx\n"
      "1:\n"
#define STEP(a) "vpmaddubsw %%ymm12, %%ymm13, %%ymm14\n vpaddw %%ymm14, %%ymm" #a ", %%ymm" #a "\n"
      STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7)
#undef STEP
      "dec %%ecx\n jnz 1b\n vzeroupper\n" ::"r"(peak_loops)
      : "ecx", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm12", "xmm13", "xmm14");
  return 8.0 * 32 * peak_loops;
}

double byte_products_avx512() {
  asm volatile(
      "mov %0, %%ecx\n"
      "1:\n"
#define STEP(a) "vpdpbusd %%zmm12, %%zmm13, %%zmm" #a "\n"
      STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) STEP(8) STEP(9)
#undef STEP
      "dec %%ecx\n jnz 1b\n vzeroupper\n" ::"r"(peak_loops)
      : "ecx", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm12", "xmm13");
  return 10.0 * 64 * peak_loops;
}

struct one_case {
  dtype type;
  std::uint32_t rows, cols, m;
  std::vector<double> product, read, peak, pack;
};

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 11;
  std::vector<dtype> types;
  for (int i = 2; i < argc; ++i)
    if (auto type = dtype_of_name(argv[i])) types.push_back(*type);
  if (types.empty()) types = {dtype::q4_1, dtype::q4_0, dtype::q8_0, dtype::q4_k, dtype::q6_k, dtype::f16};
  const std::pair<std::uint32_t, std::uint32_t> shapes[] = {{576, 576},    {1536, 576},  {576, 1536},
                                                            {49152, 576}, {2048, 2048}, {8192, 2048}};
  const isa tier = best_isa();
  const matmul_kernels& kernels = matmul_kernels_for(tier);
  const auto peak = tier == isa::avx512 ? byte_products_avx512 : byte_products_avx2;
  std::printf("tier %s, %d rounds, medians; read and peak measured beside each\n", std::string(name(tier)).c_str(), rounds);
  std::printf("%-7s %12s %5s %10s %9s %9s %7s %9s\n", "type", "rows x cols", "m", "us", "GB/s", "of read", "GMAC/s", "of peak");

  std::mt19937 random(1);
  constexpr std::size_t most = std::size_t{49152} * 576 * 5;  // beyond any packed matrix here
  const std::size_t set = std::size_t{96} << 20;              // decode meets weights cold: walk through this much
  std::byte* const weights = arena<std::byte>(std::max(most, set + (64u << 20)));
  std::byte* const source = arena<std::byte>(most);
  float* const x = arena<float>(512 * 8192);
  float* const y = arena<float>(std::size_t{512} * 49152);
  activation_group* const groups = arena<activation_group>(512 * 8192 / group_size);
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i < 512 * 8192; ++i) x[i] = normal(random);
  for (std::size_t i = 0; i < most; ++i) source[i] = static_cast<std::byte>((i * 2654435761u) >> 13 & 0x3b);

  for (dtype type : types)
    for (auto [rows, cols] : shapes) {
      if (!can_pack(type, cols)) continue;
      const std::size_t bytes = packed_bytes(type, rows, cols);
      const std::uint32_t copies = static_cast<std::uint32_t>(std::max<std::size_t>(1, set / bytes));
      const std::size_t stride = (bytes + 63) / 64 * 64;
      std::vector<double> pack_times;
      for (std::uint32_t c = 0; c < copies; ++c)
        pack_times.push_back(time_of([&] { pack_tiles(type, source, rows, cols, 0, n_tiles(rows), weights + c * stride); }));
      const double source_bytes = static_cast<double>(*bytes_of(type, std::uint64_t{rows} * cols));
      for (std::uint32_t m : {1u, 4u, 16u, 64u, 512u}) {
        if (m > 4 && rows > 10000) continue;
        kernels.quantize_rows(x, cols, m, cols, 0, m, groups);
        const activations a{x, cols, groups};
        const std::uint32_t n = m <= 4 ? copies : std::min(copies, std::max(1u, 2048 / m));
        std::vector<double> product, read, products_per_second;
        for (int round = 0; round < rounds; ++round) {
          read.push_back(time_of([&] { read_all(weights, n * stride); }) / n);
          product.push_back(time_of([&] {
                              for (std::uint32_t c = 0; c < n; ++c)
                                kernels.matmul({type, rows, cols, weights + c * stride}, 0, n_tiles(rows), a, m, y, rows);
                            }) / n);
          double done = 0;
          const double t = time_of([&] { done = peak(); });
          products_per_second.push_back(done / t);
        }
        const double t = median(product), macs = double(rows) * cols * m / t;
        std::printf("%-7s %6u x %-5u %4u %10.1f %9.1f %8.0f%% %7.1f %8.0f%%\n", std::string(name(type)).c_str(), rows, cols, m,
                    t * 1e6, bytes / t / 1e9, 100 * median(read) / t, macs / 1e9, 100 * macs / median(products_per_second));
      }
      std::printf("%-7s %6u x %-5u pack %8.1f us %6.1f GB/s of source\n", std::string(name(type)).c_str(), rows, cols,
                  median(pack_times) * 1e6, source_bytes / median(pack_times) / 1e9);
      std::fflush(stdout);
    }
}
