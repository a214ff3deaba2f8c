#pragma once
#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/element.cuh"

/// What kernels that norm a row share: one block per row, thread i owns packets of four floats i, i + blockDim.x and so
/// on. The order of a row's sums belongs to its width alone, whichever kernel it is.
namespace troupe::kernels::gpu {

constexpr std::uint32_t norm_most_threads = 1024;
constexpr int norm_kept = 2;  ///< packets of a thread that stay in registers: rows up to 8192 are read once

constexpr std::uint32_t norm_threads(std::uint32_t hidden) {
  const std::uint32_t packets = hidden / 4;
  return packets < norm_most_threads ? (packets + 31) / 32 * 32 : norm_most_threads;
}
constexpr bool norm_in_registers(std::uint32_t hidden) { return hidden / 4 <= norm_kept * norm_most_threads; }

/// Sum over the block, the same in every thread; the order is fixed by the number of threads.
__device__ inline float block_sum(float x, float* shared) {
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

__device__ inline float4 add(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ inline float4 less(float4 a, float m) { return {a.x - m, a.y - m, a.z - m, a.w - m}; }
__device__ inline float sum(float4 a) { return (a.x + a.y) + (a.z + a.w); }
__device__ inline float squares(float4 a, float so_far) {
  return fmaf(a.w, a.w, fmaf(a.z, a.z, fmaf(a.y, a.y, fmaf(a.x, a.x, so_far))));
}

/// f(k, i) for the packets of this thread in a row of n packets: its k-th is packet i of the row.
template <class F>
__device__ void for_kept(std::uint32_t n, F&& f) {
#pragma unroll
  for (int k = 0; k < norm_kept; ++k)
    if (const std::uint32_t i = threadIdx.x + k * blockDim.x; i < n) f(k, i);
}

/// Row t of a.out. for_each(f) calls f(packet, its place, its weights) for the packets of this thread, as often as it
/// is asked; keep(place, packet) is called once for each.
template <class T, bool centered, class ForEach, class Keep>
__device__ void norm_row(const rms_norm_args& a, const float* shift, std::uint32_t t, ForEach&& for_each, Keep&& keep) {
  __shared__ float shared[32];
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
    keep(i, v);
    const float4 y = centered ? less(v, mean) : v;
    float4 b = {0, 0, 0, 0};
    if (centered && shift != nullptr) b = reinterpret_cast<const float4*>(shift)[i];
    store4(out + 4 * i,
           {fmaf(y.x * inverse, w.x + a.weight_offset, b.x), fmaf(y.y * inverse, w.y + a.weight_offset, b.y),
            fmaf(y.z * inverse, w.z + a.weight_offset, b.z), fmaf(y.w * inverse, w.w + a.weight_offset, b.w)});
  });
}

}  // namespace troupe::kernels::gpu
