// What this card gives at most: bytes per second of a kernel that only reads 8 GiB, and bf16 operations per second of
// cuBLASLt's best 8192^3 product, repeated for two seconds so that the power limit counts; how long it is idle between
// two queued graphs of kernels that do nothing, which is what no host can spare it. And what a process that
// brings it weights cannot do without: seconds until there is a context, and bytes per second of copies out of one
// pinned buffer that is filled already (what reads a file has to fill it, too). One JSON object; perf/gpu_model.py and
// perf/gpu_start.py divide by it.
//
//   perf_gpu_ceiling [device] [start]     # start: only the latter two
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/gpu/card_clock.cuh"
#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/dependent.cuh"
#include "perf/gpu_read.cuh"
#include "perf/gpu_timing.hpp"
#include "src/gpu/blas_library.hpp"

namespace {

using namespace troupe::kernels::gpu;
using perf::check;
using perf::milliseconds;
void check(cublasStatus_t code) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "cuBLASLt: status %d\n", static_cast<int>(code));
  std::exit(1);
}

/// Of a process that has not asked the card for anything yet.
double make_context(int device) {
  const auto start = std::chrono::steady_clock::now();
  check(cudaSetDevice(device));
  check(cudaFree(nullptr));
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// When a graph began and ended, one pair after the other.
struct stamps {
  std::uint64_t began;
  std::uint32_t n;
  std::uint64_t pairs[1024][2];
};
__global__ void begin_kernel(stamps* s) { s->began = card_clock(); }
__global__ void nothing_kernel() {
  let_next_start();
  wait_for_previous();
}
__global__ void end_kernel(stamps* s) {
  s->pairs[s->n][0] = s->began;
  s->pairs[s->n++][1] = card_clock();
}
__global__ void spin_kernel(std::uint64_t ns) {
  for (const std::uint64_t from = card_clock(); card_clock() - from < ns;) {
  }
}

/// Median seconds from a graph's last kernel to the first of the next, both queued long before: graphs as long as a
/// decode step's.
double graph_gap() {
  constexpr int n_graphs = 4, n_kernels = 250, n_launches = 200;
  stamps* s = nullptr;
  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  check(cudaMallocHost(&s, sizeof *s));
  stamps* on_card = nullptr;
  check(cudaMalloc(&on_card, sizeof *s));
  check(cudaMemset(on_card, 0, sizeof *s));
  cudaGraphExec_t graphs[n_graphs];
  for (cudaGraphExec_t& exec : graphs) {
    cudaGraph_t graph;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    check(launch_kernel(begin_kernel, 1, 1, 0, stream, on_card));
    for (int i = 0; i < n_kernels; ++i) check(launch_dependent(nothing_kernel, 132, 128, 0, stream));
    check(launch_kernel(end_kernel, 1, 1, 0, stream, on_card));
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&exec, graph, 0));
    check(cudaGraphUpload(exec, stream));
    check(cudaGraphDestroy(graph));
  }
  check(launch_kernel(spin_kernel, 1, 1, 0, stream, std::uint64_t{50'000'000}));
  for (int i = 0; i < n_launches; ++i) check(cudaGraphLaunch(graphs[i % n_graphs], stream));
  check(cudaStreamSynchronize(stream));
  check(cudaMemcpy(s, on_card, sizeof *s, cudaMemcpyDeviceToHost));
  std::vector<double> gaps;
  for (int i = 1; i < n_launches; ++i) gaps.push_back(1e-9 * static_cast<double>(s->pairs[i][0] - s->pairs[i - 1][1]));
  std::nth_element(gaps.begin(), gaps.begin() + n_launches / 2, gaps.end());
  for (cudaGraphExec_t exec : graphs) check(cudaGraphExecDestroy(exec));
  check(cudaFree(on_card));
  check(cudaFreeHost(s));
  check(cudaStreamDestroy(stream));
  return gaps[n_launches / 2];
}

double upload_bandwidth() {
  constexpr std::size_t bytes = std::size_t{256} << 20;
  constexpr int copies = 8;
  void *device = nullptr, *host = nullptr;
  check(cudaMalloc(&device, bytes));
  check(cudaMallocHost(&host, bytes));
  std::memset(host, 1, bytes);
  double best = 0;
  for (int round = 0; round < 3; ++round) {
    const float ms = milliseconds([&] {
      for (int i = 0; i < copies; ++i) check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice));
    });
    best = std::max(best, static_cast<double>(bytes) * copies / (ms * 1e-3));
  }
  check(cudaFreeHost(host));
  check(cudaFree(device));
  return best;
}

double bf16_rate() {
  constexpr std::size_t n = 8192;
  const troupe::gpu::blas_library& lt = **troupe::gpu::blas_library::get();
  void *a = nullptr, *b = nullptr, *c = nullptr, *workspace = nullptr;
  constexpr std::size_t workspace_bytes = 32u << 20;
  for (void** p : {&a, &b, &c}) check(cudaMalloc(p, n * n * 2));
  check(cudaMalloc(&workspace, workspace_bytes));
  for (void* p : {a, b})
    check(troupe::kernels::gpu::fill_normal(p, troupe::kernels::dtype::bf16, n * n, 1, 1, nullptr));
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t layout;
  cublasLtMatmulPreference_t preference;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check(lt.create(&handle));
  check(lt.descriptor_create(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  check(lt.descriptor_set(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
  check(lt.layout_create(&layout, CUDA_R_16BF, n, n, n));
  check(lt.preference_create(&preference));
  check(lt.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                          sizeof workspace_bytes));
  cublasLtMatmulHeuristicResult_t found[8];
  int count = 0;
  check(lt.heuristic(handle, operation, layout, layout, layout, layout, preference, 8, found, &count));
  const float one = 1, zero = 0;
  const auto multiply = [&](int i) {
    check(lt.matmul(handle, operation, &one, a, layout, b, layout, &zero, c, layout, c, layout, &found[i].algo,
                    workspace, workspace_bytes, nullptr));
  };
  int fastest = 0;
  float least = 1e9f;
  for (int i = 0; i < count; ++i) {
    multiply(i);
    const float ms = milliseconds([&] { multiply(i); });
    if (ms < least) least = ms, fastest = i;
  }
  const int times = std::max(1, static_cast<int>(2000 / least));
  const float ms = milliseconds([&] {
    for (int i = 0; i < times; ++i) multiply(fastest);
  });
  return 2.0 * n * n * n * times / (ms * 1e-3);
}

}  // namespace

int main(int argc, char** argv) {
  const int device = argc > 1 ? std::atoi(argv[1]) : 0;
  const double context = make_context(device), upload = upload_bandwidth();
  cudaDeviceProp p{};
  check(cudaGetDeviceProperties(&p, device));
  std::printf("{\"card\": \"%s\", \"context_seconds\": %.4f, \"upload_bytes_per_second\": %.4e", p.name, context,
              upload);
  if (argc < 3 || std::strcmp(argv[2], "start") != 0) {
    const double gap = graph_gap(), bandwidth = perf::read_bandwidth(), rate = bf16_rate();
    std::printf(", \"graph_gap_seconds\": %.4e, \"read_bytes_per_second\": %.4e, \"bf16_per_second\": %.4e", gap,
                bandwidth, rate);
  }
  std::puts("}");
}
