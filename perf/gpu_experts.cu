// A layer's experts on one card, part by part, bf16: microseconds of each, and of the products the weights that the
// step has to read as a share of what a plain read moves in the same time, measured in this run, and their time as a
// ratio to one matrix for as many rows by the same kernel. Eight steps of different routings in a graph, so that the
// weights of few tokens come from memory.
//
//   perf_gpu_experts
#include <cstdio>
#include <functional>
#include <random>
#include <vector>

#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/experts.hpp"
#include "kernels/gpu/gemv_experts.hpp"
#include "perf/gpu_read.cuh"
#include "perf/gpu_timing.hpp"

using namespace troupe::kernels;
using namespace troupe::kernels::gpu;

namespace {

using perf::check;

constexpr int n_steps = 8;

struct shape {
  const char* name;
  std::uint32_t n_experts, n_used, hidden, ffn;
};

std::vector<void*> taken;
template <class T>
T* take(std::uint64_t n) {
  void* p = nullptr;
  check(cudaMalloc(&p, n * sizeof(T)));
  check(cudaMemset(p, 0, n * sizeof(T)));
  taken.push_back(p);
  return static_cast<T*>(p);
}

/// Weights, activations, and the routings of n_steps steps of n tokens.
struct layer {
  shape s;
  std::uint32_t n;
  std::uint64_t rows = std::uint64_t{n} * s.n_used;
  std::uint64_t gate_up_stride = std::uint64_t{2} * s.ffn * s.hidden * 2, down_stride = gate_up_stride / 2;
  std::uint32_t tile = expert_tile_rows(dtype::bf16, s.n_experts, s.n_used, n);
  std::byte* gate_up = take<std::byte>(gate_up_stride * s.n_experts);
  std::byte* down = take<std::byte>(down_stride * s.n_experts);
  std::byte* router = take<std::byte>(std::uint64_t{s.n_experts} * s.hidden * 2);
  std::byte* x_rows = take<std::byte>(rows * s.hidden * 2);
  std::byte* x = x_rows;  ///< n of them
  float* scores = take<float>(std::uint64_t{n} * s.n_experts);
  std::byte* both = take<std::byte>(rows * 2 * s.ffn * 2);
  std::byte* activated = take<std::byte>(rows * s.ffn * 2);
  std::byte* y = take<std::byte>(rows * s.hidden * 2);
  float* out = take<float>(std::uint64_t{n} * s.hidden);
  std::uint32_t* number = take<std::uint32_t>(1);
  std::uint32_t* n_rows = take<std::uint32_t>(1);
  std::vector<float*> logits;
  std::vector<expert_routes> routes;
  double experts_read = 0;  ///< of a step, the mean
  cudaStream_t stream = nullptr;

  explicit layer(const shape& of, std::uint32_t tokens) : s(of), n(tokens) {
    check(cudaStreamCreate(&stream));
    for (auto& [p, size] : {std::pair{gate_up, gate_up_stride * s.n_experts},
                            {down, down_stride * s.n_experts},
                            {x_rows, rows * s.hidden * 2},
                            {activated, rows * s.ffn * 2}})
      check(fill_normal(p, dtype::bf16, size / 2, 0.05f, 1, stream));
    const auto rows32 = static_cast<std::uint32_t>(rows);
    check(cudaMemcpy(number, &n, 4, cudaMemcpyHostToDevice));
    check(cudaMemcpy(n_rows, &rows32, 4, cudaMemcpyHostToDevice));
    std::mt19937 rng(7);
    std::normal_distribution<float> normal;
    for (int i = 0; i < n_steps; ++i) {
      std::vector<float> values(std::size_t{n} * s.n_experts);
      for (float& v : values) v = normal(rng);
      logits.push_back(take<float>(values.size()));
      check(cudaMemcpy(logits.back(), values.data(), values.size() * 4, cudaMemcpyHostToDevice));
      routes.push_back(
          view_expert_routes(take<std::byte>(expert_routes_bytes(s.n_experts, s.n_used, n)), s.n_experts, s.n_used, n));
      check(route(i));
      std::vector<std::uint32_t> counts(s.n_experts);
      check(cudaStreamSynchronize(stream));
      check(cudaMemcpy(counts.data(), routes.back().counts, s.n_experts * 4, cudaMemcpyDeviceToHost));
      for (const std::uint32_t c : counts) experts_read += c > 0 ? 1.0 / n_steps : 0.0;
      check(combine(i));  // zeros the counts
    }
  }
  cudaError_t route(int i) {
    const auto k = static_cast<std::size_t>(i);
    return route_experts(logits[k], true, routes[k], tile, number, n, stream);
  }
  cudaError_t first(int i) {
    return expert_matmul({{gate_up, x, dtype::bf16, 2 * s.ffn, s.hidden, both, dtype::bf16, 2 * s.ffn, false},
                          gate_up_stride,
                          routes[static_cast<std::size_t>(i)],
                          true,
                          tile},
                         n, stream);
  }
  cudaError_t gated(int i) {
    return gated_expert_matmul({{gate_up, x, dtype::bf16, 2 * s.ffn, s.hidden, activated, dtype::bf16, s.ffn, false},
                                gate_up_stride,
                                routes[static_cast<std::size_t>(i)],
                                true,
                                tile},
                               gate_activation::silu, n, stream);
  }
  cudaError_t second(int i) {
    return expert_matmul({{down, activated, dtype::bf16, s.hidden, s.ffn, y, dtype::bf16, s.hidden, false},
                          down_stride,
                          routes[static_cast<std::size_t>(i)],
                          false,
                          tile},
                         n, stream);
  }
  cudaError_t combine(int i) {
    return combine_experts(y, dtype::bf16, routes[static_cast<std::size_t>(i)], s.hidden, out, true, number, n, stream);
  }
  void spread_router() const {
    check(fill_normal(router, dtype::bf16, std::uint64_t{s.n_experts} * s.hidden, 0.05f, 3, stream));
  }
  /// The kernels for one token, which choose by what the router says of other activations than `route`.
  cudaError_t one_route(int i) {
    const std::byte* own = x_rows + std::uint64_t(i) % s.n_used * s.hidden * 2;  // others choose others
    return gemv_route({router, own, dtype::bf16, s.hidden, {}, scores, true, routes[static_cast<std::size_t>(i)]},
                      number, stream);
  }
  cudaError_t one_first(int i) {
    return gemv_gated_experts(
        {gate_up, gate_up_stride, x, dtype::bf16, 2 * s.ffn, s.hidden, routes[static_cast<std::size_t>(i)]},
        gate_activation::silu, {}, activated, number, stream);
  }
  cudaError_t one_second(int i) {
    return gemv_combine_experts(
        {down, down_stride, activated, dtype::bf16, s.hidden, s.ffn, routes[static_cast<std::size_t>(i)]}, out, true,
        number, stream);
  }
  double time(const std::function<cudaError_t(int)>& f) const {
    return perf::microseconds_in_graph(stream, n_steps, 20, f);
  }
};

void measure(const shape& s, std::uint32_t n, double bandwidth) {
  layer l(s, n);
  std::printf("%s, %u tokens: %.1f of %u experts a step, tiles of %u rows\n", s.name, n, l.experts_read, s.n_experts,
              l.tile);
  const auto share = [&](double us, std::uint64_t bytes) {
    return 100 * l.experts_read * static_cast<double>(bytes) / bandwidth / (us * 1e-6);
  };
  const auto report = [&](const char* what, double us) { std::printf("  %-18s %9.2f us\n", what, us); };
  /// One matrix for all rows: what such a product takes where nothing is divided.
  const auto product = [&](const char* what, double us, std::uint64_t matrix_bytes, const std::byte* w,
                           const std::byte* from, std::byte* to, std::uint32_t out_rows, std::uint32_t cols) {
    const double plain = l.time([&](int) {
      return matmul({w, from, dtype::bf16, out_rows, cols, to, dtype::bf16, out_rows, false}, l.n_rows,
                    static_cast<std::uint32_t>(l.rows), l.stream);
    });
    std::printf("  %-18s %9.2f us  %5.1f %% of reading its weights, %5.2f times as long as one matrix for all rows\n",
                what, us, share(us, matrix_bytes), us / plain);
  };
  const auto router = [&](int) {
    return matmul({l.router, l.x, dtype::bf16, s.n_experts, s.hidden, l.scores, dtype::f32, s.n_experts, false},
                  l.number, n, l.stream);
  };
  const auto read = [&](const char* what, double us, std::uint64_t bytes) {
    std::printf("  %-18s %9.2f us  %5.1f %% of reading its weights\n", what, us, share(us, bytes));
  };
  const auto in_order = [](auto... f) {
    return [=](int i) mutable {
      cudaError_t code = cudaSuccess;
      ((code = code == cudaSuccess ? f(i) : code), ...);
      return code;
    };
  };
  const auto route = [&](int i) { return l.route(i); };
  const auto first = [&](int i) { return l.first(i); };
  const auto gated = [&](int i) { return l.gated(i); };
  const auto second = [&](int i) { return l.second(i); };
  const auto combine = [&](int i) { return l.combine(i); };
  report("router", l.time(router));
  report("route, combine", l.time(in_order(route, combine)));
  product("gate and up", l.time(first), l.gate_up_stride, l.gate_up, l.x_rows, l.both, 2 * s.ffn, s.hidden);
  read("with activation", l.time(gated), l.gate_up_stride);
  product("down", l.time(second), l.down_stride, l.down, l.activated, l.y, s.hidden, s.ffn);
  read("all", l.time(in_order(router, route, gated, second, combine)), l.gate_up_stride + l.down_stride);
  if (n == 1) {
    const auto one_route = [&](int i) { return l.one_route(i); };
    const auto one_first = [&](int i) { return l.one_first(i); };
    const auto one_second = [&](int i) { return l.one_second(i); };
    for (int i = 0; i < n_steps; ++i) check(l.route(i));  // the choices that `experts_read` is of
    read("gemv: gate and up", l.time(one_first), l.gate_up_stride);
    read("gemv: down, sum", l.time(one_second), l.down_stride);
    for (const expert_routes& r : l.routes) check(cudaMemsetAsync(r.counts, 0, s.n_experts * 4, l.stream));
    check(cudaStreamSynchronize(l.stream));
    l.spread_router();
    report("gemv: router", l.time(one_route));
    read("gemv: all", l.time(in_order(one_route, one_first, one_second)), l.gate_up_stride + l.down_stride);
  }
  check(cudaStreamDestroy(l.stream));
  for (void* p : taken) check(cudaFree(p));
  taken.clear();
}

}  // namespace

int main() {
  const double bandwidth = perf::read_bandwidth();
  std::printf("reads %.0f GB/s\n", 1e-9 * bandwidth);
  for (const shape& s : {shape{"Qwen3-30B-A3B", 128, 8, 2048, 768}, shape{"Mixtral 8x7B", 8, 2, 4096, 14336}})
    for (const std::uint32_t n : {1u, 8u, 64u, 256u, 2048u}) measure(s, n, bandwidth);
  return 0;
}
