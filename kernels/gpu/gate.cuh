#pragma once
#include "kernels/gpu/dense.hpp"

namespace troupe::kernels::gpu {

/// x / (1 + exp(-y)); __fdividef is within 2 ulp and gives 0 where exp overflows. With y = x it is SiLU.
__device__ inline float logistic_share(float x, float y) { return __fdividef(x, 1.0f + expf(-y)); }

template <gate_activation activation>
__device__ float activate(float x) {
  if constexpr (activation == gate_activation::silu) {
    return logistic_share(x, x);
  } else if constexpr (activation == gate_activation::gelu_tanh) {
    // x (1 + tanh u) / 2 = x / (1 + exp(-2u)), which loses nothing where tanh nears -1. u = sqrt(2/pi) (x + 0.044715
    // x^3)
    return logistic_share(x, 1.5957691216057308f * x * fmaf(0.044715f * x, x, 1.0f));
  } else {
    return 0.5f * x * erfcf(-0.70710678118654752f * x);
  }
}

/// The same for all threads.
__device__ inline float activate(gate_activation activation, float x) {
  switch (activation) {
    case gate_activation::gelu_tanh:
      return activate<gate_activation::gelu_tanh>(x);
    case gate_activation::gelu_erf:
      return activate<gate_activation::gelu_erf>(x);
    case gate_activation::silu:
      break;
  }
  return activate<gate_activation::silu>(x);
}

}  // namespace troupe::kernels::gpu
