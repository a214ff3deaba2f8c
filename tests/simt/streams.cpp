#include <cuda_runtime.h>

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <thread>
#include <vector>

#include "kernels/gpu/dependent.cuh"

// What src/gpu counts on of streams, events and graphs.
using troupe::kernels::gpu::launch_kernel;

namespace {

__global__ void add(unsigned* to, unsigned n) { atomicAdd(to, n); }
__global__ void double_it(unsigned* to) { *to *= 2; }
__global__ void wait_for(const volatile unsigned* word) {
  while (*word == 0) __nanosleep(100);
}
__global__ void never(unsigned) {
  if (threadIdx.x == 0) __syncwarp();
  if (threadIdx.x == 1) __syncthreads();
}

struct words {
  unsigned* p = nullptr;
  explicit words(std::size_t n) {
    BOOST_REQUIRE(cudaHostAlloc(&p, n * sizeof(unsigned), cudaHostAllocMapped) == cudaSuccess);
    std::fill_n(p, n, 0u);
  }
  ~words() { cudaFreeHost(p); }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(streams)

BOOST_AUTO_TEST_CASE(work_of_a_stream_is_done_in_order_beside_the_host) {
  words w(2);
  cudaStream_t s, other;
  BOOST_TEST(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) == cudaSuccess);
  BOOST_TEST(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking) == cudaSuccess);
  BOOST_TEST(launch_kernel(wait_for, 1, 1, 0, s, w.p) == cudaSuccess);
  BOOST_TEST(launch_kernel(add, 2, 32, 0, s, w.p + 1, 1u) == cudaSuccess);
  BOOST_TEST(launch_kernel(double_it, 1, 1, 0, s, w.p + 1) == cudaSuccess);
  BOOST_TEST(cudaStreamQuery(s) == cudaErrorNotReady);
  BOOST_TEST(launch_kernel(add, 1, 1, 0, other, w.p, 1u) == cudaSuccess);  // opens the first one's way
  BOOST_TEST(cudaStreamSynchronize(s) == cudaSuccess);
  BOOST_TEST(cudaStreamQuery(s) == cudaSuccess);
  BOOST_TEST(w.p[1] == 128u);
  cudaStreamDestroy(s);
  cudaStreamDestroy(other);
}

BOOST_AUTO_TEST_CASE(the_default_stream_and_blocking_ones_wait_for_each_other) {
  words w(2);
  cudaStream_t s;
  BOOST_TEST(cudaStreamCreate(&s) == cudaSuccess);
  BOOST_TEST(launch_kernel(wait_for, 1, 1, 0, s, w.p) == cudaSuccess);
  BOOST_TEST(launch_kernel(add, 1, 1, 0, nullptr, w.p + 1, 5u) == cudaSuccess);
  BOOST_TEST(launch_kernel(double_it, 1, 1, 0, s, w.p + 1) == cudaSuccess);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  BOOST_TEST(std::atomic_ref(w.p[1]).load() == 0u);
  std::atomic_ref(w.p[0]).store(1);
  BOOST_TEST(cudaDeviceSynchronize() == cudaSuccess);
  BOOST_TEST(w.p[1] == 10u);
  cudaStreamDestroy(s);
}

BOOST_AUTO_TEST_CASE(a_captured_stream_does_nothing_until_its_graph_runs) {
  words w(1);
  cudaStream_t s;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  BOOST_TEST(cudaStreamCreate(&s) == cudaSuccess);
  BOOST_TEST(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  BOOST_TEST(launch_kernel(add, 1, 1, 0, s, w.p, 3u) == cudaSuccess);
  BOOST_TEST(launch_kernel(double_it, 1, 1, 0, s, w.p) == cudaSuccess);
  void* none = nullptr;
  BOOST_TEST(cudaMalloc(&none, 16) == cudaErrorStreamCaptureUnsupported);
  (void)cudaGetLastError();
  BOOST_TEST(cudaStreamEndCapture(s, &graph) == cudaSuccess);
  BOOST_TEST(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
  BOOST_TEST(cudaGraphDestroy(graph) == cudaSuccess);
  BOOST_TEST(cudaStreamSynchronize(s) == cudaSuccess);
  BOOST_TEST(w.p[0] == 0u);
  for (int i = 0; i < 2; ++i) BOOST_TEST(cudaGraphLaunch(exec, s) == cudaSuccess);
  BOOST_TEST(cudaGraphExecDestroy(exec) == cudaSuccess);
  BOOST_TEST(cudaStreamSynchronize(s) == cudaSuccess);
  BOOST_TEST(w.p[0] == 18u);
  cudaStreamDestroy(s);
}

BOOST_AUTO_TEST_CASE(events_measure_what_lies_between_them) {
  words w(1);
  cudaEvent_t begin, end;
  BOOST_TEST((cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess));
  BOOST_TEST(cudaEventRecord(begin) == cudaSuccess);
  BOOST_TEST(launch_kernel(wait_for, 1, 1, 0, nullptr, w.p) == cudaSuccess);
  BOOST_TEST(cudaEventRecord(end) == cudaSuccess);
  float ms = 0;
  BOOST_TEST(cudaEventElapsedTime(&ms, begin, end) == cudaErrorNotReady);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  std::atomic_ref(w.p[0]).store(1);
  BOOST_TEST(cudaEventSynchronize(end) == cudaSuccess);
  BOOST_TEST(cudaEventElapsedTime(&ms, begin, end) == cudaSuccess);
  BOOST_TEST(ms >= 4.0f);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

BOOST_AUTO_TEST_CASE(impossible_launches_are_refused) {
  words w(1);
  BOOST_TEST(launch_kernel(add, 1, 1025, 0, nullptr, w.p, 1u) == cudaErrorInvalidConfiguration);
  BOOST_TEST(launch_kernel(add, dim3(1, 65536), 1, 0, nullptr, w.p, 1u) == cudaErrorInvalidConfiguration);
  BOOST_TEST(launch_kernel(add, 1, 1, 64 << 10, nullptr, w.p, 1u) == cudaErrorInvalidValue);
  BOOST_TEST(cudaFuncSetAttribute(add, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10) == cudaSuccess);
  BOOST_TEST(launch_kernel(add, 1, 1, 64 << 10, nullptr, w.p, 1u) == cudaSuccess);
  BOOST_TEST(cudaDeviceSynchronize() == cudaSuccess);
}

// On the second card, which then is of no more use, as on a real one.
BOOST_AUTO_TEST_CASE(a_kernel_that_hangs_breaks_its_card_only) {
  BOOST_TEST_REQUIRE(cudaSetDevice(1) == cudaSuccess);
  (void)launch_kernel(never, 1, 32, 0, nullptr, 1u);  // may already tell what became of it
  BOOST_TEST(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  BOOST_TEST(launch_kernel(never, 1, 32, 0, nullptr, 1u) == cudaErrorLaunchFailure);
  BOOST_TEST(cudaSetDevice(0) == cudaSuccess);
  (void)cudaGetLastError();
  BOOST_TEST(cudaDeviceSynchronize() == cudaSuccess);
}

BOOST_AUTO_TEST_SUITE_END()
