#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/gate.cuh"

namespace troupe::kernels::gpu {
namespace {

constexpr int gate_threads = 256;

/// Block (x, y): packets of 16 bytes of token x, one per thread and turn. Bytes: 3 * ffn * sizeof(T) per token.
template <class T, gate_activation activation>
__global__ void __launch_bounds__(gate_threads)
    gate_kernel(const packet<T>* gate_up, const float* gate_bias, const float* up_bias, packet<T>* out,
                std::uint32_t packets, const std::uint32_t* n_tokens) {
  constexpr int size = packet<T>::size;
  let_next_start();
  wait_for_previous();
  const std::uint64_t t = blockIdx.x;
  if (t >= *n_tokens) return;
  for (std::uint32_t i = blockIdx.y * gate_threads + threadIdx.x; i < packets; i += gridDim.y * gate_threads) {
    const packet<T> gate = gate_up[2 * t * packets + i], up = gate_up[(2 * t + 1) * packets + i];
    packet<T> y;
#pragma unroll
    for (int j = 0; j < size; ++j) {
      float g = element<T>::get(gate.v[j]), u = element<T>::get(up.v[j]);
      if (gate_bias != nullptr) g += gate_bias[i * size + j];
      if (up_bias != nullptr) u += up_bias[i * size + j];
      y.v[j] = element<T>::put(activate<activation>(g) * u);
    }
    out[t * packets + i] = y;
  }
}

}  // namespace

cudaError_t gated_activation(gate_activation activation, const void* gate_up, const float* gate_bias,
                             const float* up_bias, void* out, dtype type, std::uint32_t ffn,
                             const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t stream) {
  if (max_tokens == 0 || ffn == 0) return cudaSuccess;
  if (ffn % 8 != 0) return cudaErrorInvalidValue;
  return with_element(type, [&](auto x) {
    using T = decltype(x);
    const std::uint32_t packets = ffn / packet<T>::size, blocks = (packets + gate_threads - 1) / gate_threads;
    const dim3 grid(max_tokens, blocks < 64 ? blocks : 64);
    const auto launch = [&](auto kernel) {
      return launch_dependent(kernel, grid, gate_threads, 0, stream, static_cast<const packet<T>*>(gate_up), gate_bias,
                              up_bias, static_cast<packet<T>*>(out), packets, n_tokens);
    };
    switch (activation) {
      case gate_activation::silu:
        return launch(gate_kernel<T, gate_activation::silu>);
      case gate_activation::gelu_tanh:
        return launch(gate_kernel<T, gate_activation::gelu_tanh>);
      case gate_activation::gelu_erf:
        return launch(gate_kernel<T, gate_activation::gelu_erf>);
    }
    return cudaErrorInvalidValue;
  });
}

}  // namespace troupe::kernels::gpu
