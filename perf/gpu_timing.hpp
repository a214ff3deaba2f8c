#pragma once
#include <cuda_runtime_api.h>
#include <errno.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>

// What the programs for one card share.
namespace perf {

/// A benchmark has nothing to go on with after an error.
inline void check(cudaError_t code) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", program_invocation_short_name, cudaGetErrorString(code));
  std::exit(1);
}

/// Milliseconds of what f enqueues.
template <class F>
float milliseconds(F&& f) {
  cudaEvent_t from, to;
  check(cudaEventCreate(&from));
  check(cudaEventCreate(&to));
  check(cudaEventRecord(from));
  f();
  check(cudaEventRecord(to));
  check(cudaEventSynchronize(to));
  float ms = 0;
  check(cudaEventElapsedTime(&ms, from, to));
  return ms;
}

/// Median microseconds of one of the `n_ops` operations that `enqueue(i)` puts on the stream, as they run in a captured
/// graph of all of them: launches from the host would take longer than many a kernel. Two rounds more warm up.
template <class F>
double microseconds_in_graph(cudaStream_t stream, int n_ops, int rounds, F&& enqueue) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < n_ops; ++i) check(enqueue(i));
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t from, to;
  check(cudaEventCreate(&from));
  check(cudaEventCreate(&to));
  std::vector<float> times;
  for (int r = 0; r < rounds + 2; ++r) {
    check(cudaEventRecord(from, stream));
    check(cudaGraphLaunch(exec, stream));
    check(cudaEventRecord(to, stream));
    check(cudaEventSynchronize(to));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, from, to));
    if (r >= 2) times.push_back(ms);
  }
  check(cudaGraphExecDestroy(exec));
  check(cudaGraphDestroy(graph));
  check(cudaEventDestroy(from));
  check(cudaEventDestroy(to));
  const std::size_t middle = times.size() / 2;
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(middle), times.end());
  return static_cast<double>(times[middle]) * 1000 / n_ops;
}

}  // namespace perf
