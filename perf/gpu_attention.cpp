#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "kernels/gpu/attention_scratch.hpp"
#include "perf/gpu_timing.hpp"

// Speed of the attention kernels: each shape in a captured graph of several launches over rotating KV pools and
// queries. Prints microseconds and the share of the floor: bytes of keys and values at the read bandwidth that this run
// measures (by a copy engine's device-to-device copy, read plus write), and for prefill the products at 680 TFLOP/s,
// what an H200 sustains in bf16.

using namespace troupe::kernels;
using namespace troupe::kernels::gpu;

namespace {

using perf::check;

template <class T>
T* allocate(std::size_t n) {
  void* p = nullptr;
  check(cudaMalloc(&p, n * sizeof(T) + 256));
  return static_cast<T*>(p);
}

cudaStream_t stream;

/// Normal numbers as bf16 or f32 (absolute values: scales) over the whole array: a block of them, doubled until it is
/// full.
void fill(void* to, std::size_t bytes, bool f32) {
  static const std::vector<float> numbers = [] {
    std::mt19937 rng(5);
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> x(1 << 20);
    for (float& f : x) f = normal(rng);
    return x;
  }();
  std::vector<std::uint16_t> block;
  for (float f : numbers) {
    const auto bits = std::bit_cast<std::uint32_t>(f32 ? 0.01f * std::abs(f) : f);
    if (f32) block.push_back(static_cast<std::uint16_t>(bits));
    block.push_back(f32 ? static_cast<std::uint16_t>(bits >> 16) : f32_to_bf16(f));
  }
  std::size_t done = std::min(bytes, block.size() * 2);
  check(cudaMemcpy(to, block.data(), done, cudaMemcpyHostToDevice));
  for (; done < bytes; done += std::min(done, bytes - done))
    check(cudaMemcpy(static_cast<char*>(to) + done, to, std::min(done, bytes - done), cudaMemcpyDeviceToDevice));
}

template <class F>
double microseconds(int n, const F& enqueue) {
  return perf::microseconds_in_graph(stream, n, 10, enqueue);
}

double read_bandwidth() {
  const std::size_t bytes = std::size_t{2} << 30;
  char* from = allocate<char>(bytes);
  char* to = allocate<char>(bytes);
  const double us = microseconds(4, [&](int) { return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream); });
  check(cudaFree(from));
  check(cudaFree(to));
  return 2 * static_cast<double>(bytes) / us * 1e6;
}

struct shape {
  std::uint32_t n_heads, n_kv_heads, head_dim;
  kv_type kv;
  std::uint32_t n_rows, context, n_tokens;  ///< rows of n_tokens queries each, the last at position context - 1
  std::uint32_t others = 0;                 ///< not 0: the context of all rows but the first
};

void measure(const shape& s, int n_sms, double bandwidth) {
  constexpr int n_ops = 4;
  attention_args a{};
  const std::uint32_t n_tokens = s.n_rows * s.n_tokens, table_pages = (s.context + page_tokens - 1) / page_tokens;
  a.shape = {s.n_heads, s.n_kv_heads, s.head_dim, n_tokens, s.n_rows, s.context, 0, static_cast<std::uint32_t>(n_sms)};
  a.type = dtype::bf16;
  a.ld_q = (s.n_heads + 2 * s.n_kv_heads) * s.head_dim;
  a.table_pages = table_pages;
  a.scale = 1.0f / 11;
  const std::size_t n_pages = std::size_t{table_pages} * s.n_rows;
  const std::size_t rows = n_pages * s.n_kv_heads * page_tokens, elements = rows * s.head_dim;
  // Enough pools that one is out of the cache when its turn comes.
  const std::size_t pool_bytes = 2 * elements * kv_element_bytes(s.kv);
  const int n_pools = pool_bytes > (std::size_t{100} << 20) ? 1 : n_ops;
  std::vector<kv_pool> pools;
  for (int i = 0; i < n_pools; ++i) {
    kv_pool p{};
    p.k = allocate<char>(elements * kv_element_bytes(s.kv));
    p.v = allocate<char>(elements * kv_element_bytes(s.kv));
    if (s.kv == kv_type::e4m3) {
      p.k_scale = allocate<float>(rows);
      p.v_scale = allocate<float>(rows);
      check(cudaMemset(p.k, 0x31, elements));
      check(cudaMemset(p.v, 0x32, elements));
      fill(p.k_scale, rows * 4, true);
      fill(p.v_scale, rows * 4, true);
    } else {
      fill(p.k, elements * 2, false);
      fill(p.v, elements * 2, false);
    }
    p.type = s.kv;
    p.n_kv_heads = s.n_kv_heads;
    p.head_dim = s.head_dim;
    pools.push_back(p);
  }
  void* q = allocate<std::uint16_t>(std::size_t{n_tokens} * a.ld_q);
  fill(q, std::size_t{n_tokens} * a.ld_q * 2, false);
  a.q = q;
  a.out = allocate<std::uint16_t>(std::size_t{n_tokens} * s.n_heads * s.head_dim);
  std::vector<std::uint32_t> table(n_pages);
  for (std::size_t i = 0; i < n_pages; ++i) table[i] = static_cast<std::uint32_t>(i);
  std::shuffle(table.begin(), table.end(), std::mt19937(1));
  auto* table_device = allocate<std::uint32_t>(n_pages);
  check(cudaMemcpy(table_device, table.data(), n_pages * 4, cudaMemcpyHostToDevice));
  a.page_table = table_device;
  std::vector<row_span> spans;
  const auto context_of = [&s](std::uint32_t r) { return r > 0 && s.others ? s.others : s.context; };
  for (std::uint32_t r = 0; r < s.n_rows; ++r)
    spans.push_back({r, context_of(r) - s.n_tokens, s.n_tokens, r * s.n_tokens});
  std::vector<attention_item> items;
  plan_attention(a.shape, spans, items);
  const auto n_items = static_cast<std::uint32_t>(items.size());
  auto* items_device = allocate<attention_item>(items.size());
  auto* n_items_device = allocate<std::uint32_t>(1);
  check(cudaMemcpy(items_device, items.data(), items.size() * sizeof(attention_item), cudaMemcpyHostToDevice));
  check(cudaMemcpy(n_items_device, &n_items, 4, cudaMemcpyHostToDevice));
  a.items = items_device;
  a.n_items = n_items_device;
  a.scratch = allocate<char>(attention_scratch_bytes(a.shape));
  check(cudaMemset(a.scratch, 0, attention_scratch_bytes(a.shape)));
  check(cudaDeviceSynchronize());

  const auto time = [&](auto&& compute) {
    return microseconds(n_ops, [&](int i) {
      a.kv = pools[static_cast<std::size_t>(i % n_pools)];
      return compute();
    });
  };
  const double us = time([&] { return attention(a, stream); });
  const double scale_bytes = s.kv == kv_type::e4m3 ? 4 : 0;
  double positions = 0, pairs = 0;
  for (std::uint32_t r = 0; r < s.n_rows; ++r) {
    positions += context_of(r);
    pairs += (context_of(r) - s.n_tokens) * static_cast<double>(s.n_tokens) + s.n_tokens * (s.n_tokens + 1.0) / 2;
  }
  const double bytes = 2.0 * positions * s.n_kv_heads * (s.head_dim * kv_element_bytes(s.kv) + scale_bytes);
  const double flops = 4.0 * pairs * s.n_heads * s.head_dim;
  const double floor = std::max(bytes / bandwidth, flops / 680e12) * 1e6;
  std::printf(
      "%3u/%u heads of %3u %-5s %4u rows x %4u at %6u%s %5u items  %9.1f us  %5.2f TB/s  %5.0f TFLOP/s  %5.1f %%\n",
      s.n_heads, s.n_kv_heads, s.head_dim, s.kv == kv_type::e4m3 ? "e4m3" : "bf16", s.n_rows, s.n_tokens, s.context,
      s.others ? (" and " + std::to_string(s.others)).c_str() : "", n_items, us, bytes / us / 1e6, flops / us / 1e6,
      floor / us * 100);
  if (can_attend_few(a, n_tokens)) {
    std::vector<std::uint32_t> at, slots;
    for (const row_span& r : spans)
      for (std::uint32_t i = 0; i < r.n_tokens; ++i) at.push_back(r.position + i), slots.push_back(r.slot);
    auto* place = allocate<std::uint32_t>(2 * n_tokens + 1);
    check(cudaMemcpy(place, at.data(), n_tokens * 4, cudaMemcpyHostToDevice));
    check(cudaMemcpy(place + n_tokens, slots.data(), n_tokens * 4, cudaMemcpyHostToDevice));
    check(cudaMemcpy(place + 2 * n_tokens, &n_tokens, 4, cudaMemcpyHostToDevice));
    const double few_us =
        time([&] { return attention_few(a, place, place + n_tokens, place + 2 * n_tokens, n_tokens, stream); });
    std::printf("  by the kernel for few tokens %49.1f us  %5.2f TB/s  %20.1f %%\n", few_us, bytes / few_us / 1e6,
                floor / few_us * 100);
    check(cudaFree(place));
  }
  std::fflush(stdout);
  for (const kv_pool& p : pools)
    for (void* x : {p.k, p.v, static_cast<void*>(p.k_scale), static_cast<void*>(p.v_scale)}) check(cudaFree(x));
  for (const void* x :
       {a.q, static_cast<const void*>(a.out), static_cast<const void*>(a.page_table), static_cast<const void*>(a.items),
        static_cast<const void*>(a.n_items), static_cast<const void*>(a.scratch)})
    check(cudaFree(const_cast<void*>(x)));
}

}  // namespace

int main() {
  int n_sms = 0;
  check(cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, 0));
  check(cudaStreamCreate(&stream));
  const double bandwidth = read_bandwidth();
  std::printf("%d multiprocessors, %.2f TB/s read plus write in a copy\n", n_sms, bandwidth / 1e12);
  const kv_type wide = kv_type::bf16, narrow = kv_type::e4m3;
  for (const shape& s : std::vector<shape>{// decode
                                           {32, 8, 128, wide, 1, 1024, 1},
                                           {32, 8, 128, wide, 1, 8192, 1},
                                           {32, 8, 128, wide, 1, 32768, 1},
                                           {32, 8, 128, wide, 1, 131072, 1},
                                           {32, 8, 128, wide, 2, 512, 1},
                                           {32, 8, 128, wide, 4, 512, 1},
                                           {32, 8, 128, wide, 8, 512, 1},
                                           {32, 8, 128, wide, 8, 2048, 1},
                                           {32, 8, 128, wide, 8, 8192, 1},
                                           {32, 8, 128, wide, 8, 32768, 1},
                                           {32, 8, 128, wide, 8, 32768, 1, 512},
                                           {32, 8, 128, wide, 2, 32768, 1, 512},
                                           {32, 8, 128, wide, 1, 512, 8},
                                           {32, 8, 128, wide, 1, 8192, 8},
                                           {64, 8, 128, wide, 8, 512, 1},
                                           {64, 8, 128, wide, 8, 8192, 1},
                                           {32, 8, 128, wide, 16, 8192, 1},
                                           {32, 8, 128, wide, 20, 8192, 1},
                                           {32, 8, 128, wide, 64, 2048, 1},
                                           {32, 8, 128, wide, 64, 8192, 1},
                                           {32, 8, 128, wide, 256, 1024, 1},
                                           {32, 8, 128, wide, 256, 200, 1},
                                           {32, 8, 128, narrow, 64, 8192, 1},
                                           {32, 8, 128, narrow, 1, 32768, 1},
                                           {9, 3, 64, wide, 64, 2048, 1},
                                           {64, 8, 64, wide, 64, 8192, 1},
                                           {16, 16, 128, wide, 64, 4096, 1},
                                           {8, 4, 256, wide, 64, 8192, 1},
                                           {8, 4, 256, narrow, 64, 8192, 1},
                                           {32, 8, 128, wide, 32, 8192, 4},
                                           // prefill
                                           {32, 8, 128, wide, 1, 512, 512},
                                           {32, 8, 128, wide, 1, 2048, 2048},
                                           {32, 8, 128, wide, 1, 8192, 8192},
                                           {32, 8, 128, wide, 1, 32768, 2048},
                                           {32, 8, 128, wide, 8, 1024, 1024},
                                           {32, 8, 128, narrow, 1, 8192, 8192},
                                           {64, 8, 64, wide, 1, 8192, 8192},
                                           {8, 4, 256, wide, 1, 8192, 8192},
                                           {9, 3, 64, wide, 1, 2048, 2048}})
    measure(s, n_sms, bandwidth);
}
