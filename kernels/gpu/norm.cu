#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/norm_row.cuh"

namespace troupe::kernels::gpu {
namespace {

/// In_registers: the row is read once; else again (from the cache) for each pass. Bytes: hidden * (4 + 4 with a bias +
/// the size of T).
template <class T, bool centered, bool in_registers>
__global__ void __launch_bounds__(norm_most_threads)
    norm_kernel(rms_norm_args a, const float* shift, const std::uint32_t* n_tokens) {
  const std::uint32_t n = a.hidden / 4;
  const auto* weight = reinterpret_cast<const float4*>(a.weight);
  float4 kept_weight[norm_kept];
  let_next_start();
  if constexpr (in_registers)  // weights never change in a step
    for_kept(n, [&](int k, std::uint32_t i) { kept_weight[k] = weight[i]; });
  wait_for_previous();
  const std::uint32_t t = blockIdx.x;
  if (t >= *n_tokens) return;
  float4* row = reinterpret_cast<float4*>(a.h + std::uint64_t{a.gather != nullptr ? a.gather[t] : t} * a.hidden);
  const float4* bias = reinterpret_cast<const float4*>(a.bias);
  float4 x[norm_kept];

  const auto load = [&](std::uint32_t i) { return bias != nullptr ? add(row[i], bias[i]) : row[i]; };
  if constexpr (in_registers) for_kept(n, [&](int k, std::uint32_t i) { x[k] = load(i); });
  const auto for_each = [&](auto&& f) {
    if constexpr (in_registers) {
      for_kept(n, [&](int k, std::uint32_t i) { f(x[k], i, kept_weight[k]); });
    } else {
      for (std::uint32_t i = threadIdx.x; i < n; i += blockDim.x) f(load(i), i, weight[i]);
    }
  };
  norm_row<T, centered>(a, shift, t, for_each, [&](std::uint32_t i, float4 v) {
    if (bias != nullptr && a.gather == nullptr) row[i] = v;
  });
}

template <bool centered>
cudaError_t norm(const rms_norm_args& a, const float* shift, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                 cudaStream_t stream) {
  if (max_tokens == 0) return cudaSuccess;
  if (a.hidden == 0 || a.hidden % 4 != 0) return cudaErrorInvalidValue;
  return with_element(a.type, [&](auto x) {
    using T = decltype(x);
    const auto kernel = norm_in_registers(a.hidden) ? norm_kernel<T, centered, true> : norm_kernel<T, centered, false>;
    return launch_dependent(kernel, max_tokens, norm_threads(a.hidden), 0, stream, a, shift, n_tokens);
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
