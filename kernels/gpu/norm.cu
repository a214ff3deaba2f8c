#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"

namespace troupe::kernels::gpu {
namespace {

constexpr std::uint32_t max_threads = 1024;
constexpr int kept = 2;  ///< packets of a thread that stay in registers: rows up to 8192 are read once

/// Sum over the block, the same in every thread; the order is fixed by the number of threads.
__device__ float block_sum(float x, float* shared) {
  x = warp_sum(x);
  const std::uint32_t n_warps = blockDim.x / 32;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x % 32 < n_warps ? shared[threadIdx.x % 32] : 0.0f;
  __syncthreads();  // before the next call writes `shared`
  return warp_sum(x);
}

/// Four results, rounded, as one store.
template <class T>
__device__ void store4(T* out, float4 x) {
  struct alignas(4 * sizeof(T)) four {
    T v[4];
  };
  *reinterpret_cast<four*>(out) = {
      {element<T>::put(x.x), element<T>::put(x.y), element<T>::put(x.z), element<T>::put(x.w)}};
}

__device__ float4 add(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ float4 less(float4 a, float m) { return {a.x - m, a.y - m, a.z - m, a.w - m}; }
__device__ float sum(float4 a) { return (a.x + a.y) + (a.z + a.w); }
__device__ float squares(float4 a, float so_far) {
  return fmaf(a.w, a.w, fmaf(a.z, a.z, fmaf(a.y, a.y, fmaf(a.x, a.x, so_far))));
}

/// One block per row. Thread i owns packets of four floats i, i + blockDim.x and so on. In_registers: at most `kept` of
/// them, so that the row is read once; else it is read again (from the cache) for each pass. Bytes: hidden * (4 + 4
/// with a bias + the size of T).
template <class T, bool centered, bool in_registers>
__global__ void __launch_bounds__(max_threads)
    norm_kernel(rms_norm_args a, const float* shift, const std::uint32_t* n_tokens) {
  __shared__ float shared[32];
  const std::uint32_t n = a.hidden / 4;
  const auto* weight = reinterpret_cast<const float4*>(a.weight);
  float4 kept_weight[kept];
  let_next_start();
  if constexpr (in_registers) {  // weights never change in a step
#pragma unroll
    for (int k = 0; k < kept; ++k)
      if (const std::uint32_t i = threadIdx.x + k * blockDim.x; i < n) kept_weight[k] = weight[i];
  }
  wait_for_previous();
  const std::uint32_t t = blockIdx.x;
  if (t >= *n_tokens) return;
  float4* row = reinterpret_cast<float4*>(a.h + std::uint64_t{a.gather != nullptr ? a.gather[t] : t} * a.hidden);
  const float4* bias = reinterpret_cast<const float4*>(a.bias);
  float4 x[kept];

  const auto load = [&](std::uint32_t i) { return bias != nullptr ? add(row[i], bias[i]) : row[i]; };
  // f(packet, index, weight) for the packets of this thread.
  const auto for_each = [&](auto&& f) {
    if constexpr (in_registers) {
#pragma unroll
      for (int k = 0; k < kept; ++k)
        if (const std::uint32_t i = threadIdx.x + k * blockDim.x; i < n) f(x[k], i, kept_weight[k]);
    } else {
      for (std::uint32_t i = threadIdx.x; i < n; i += blockDim.x) f(load(i), i, weight[i]);
    }
  };
  if constexpr (in_registers) {
#pragma unroll
    for (int k = 0; k < kept; ++k)
      if (const std::uint32_t i = threadIdx.x + k * blockDim.x; i < n) x[k] = load(i);
  }

  const float count = static_cast<float>(a.hidden);
  float mean = 0;
  if constexpr (centered) {
    float s = 0;
    for_each([&](float4 v, std::uint32_t, float4) { s += sum(v); });
    mean = block_sum(s, shared) / count;
  }
  float s = 0;
  for_each([&](float4 v, std::uint32_t, float4) { s = squares(centered ? less(v, mean) : v, s); });
  const float inverse = 1.0f / sqrtf(block_sum(s, shared) / count + a.eps);

  T* out = static_cast<T*>(a.out) + std::uint64_t{t} * a.hidden;
  for_each([&](float4 v, std::uint32_t i, float4 w) {
    if (bias != nullptr && a.gather == nullptr) row[i] = v;
    const float4 y = centered ? less(v, mean) : v;
    float4 b = {0, 0, 0, 0};
    if (centered && shift != nullptr) b = reinterpret_cast<const float4*>(shift)[i];
    store4(out + 4 * i,
           {fmaf(y.x * inverse, w.x + a.weight_offset, b.x), fmaf(y.y * inverse, w.y + a.weight_offset, b.y),
            fmaf(y.z * inverse, w.z + a.weight_offset, b.z), fmaf(y.w * inverse, w.w + a.weight_offset, b.w)});
  });
}

template <bool centered>
cudaError_t norm(const rms_norm_args& a, const float* shift, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                 cudaStream_t stream) {
  if (max_tokens == 0) return cudaSuccess;
  if (a.hidden == 0 || a.hidden % 4 != 0) return cudaErrorInvalidValue;
  const std::uint32_t packets = a.hidden / 4;
  const std::uint32_t threads = packets < max_threads ? (packets + 31) / 32 * 32 : max_threads;
  return with_element(a.type, [&](auto x) {
    using T = decltype(x);
    const auto kernel =
        packets <= kept * max_threads ? norm_kernel<T, centered, true> : norm_kernel<T, centered, false>;
    return launch_dependent(kernel, max_tokens, threads, 0, stream, a, shift, n_tokens);
  });
}

}  // namespace

cudaError_t rms_norm(const rms_norm_args& a, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                     cudaStream_t stream) {
  return norm<false>(a, nullptr, n_tokens, max_tokens, stream);
}

cudaError_t layer_norm(const rms_norm_args& a, const float* shift, const std::uint32_t* n_tokens,
                       std::uint32_t max_tokens, cudaStream_t stream) {
  return norm<true>(a, shift, n_tokens, max_tokens, stream);
}

}  // namespace troupe::kernels::gpu
