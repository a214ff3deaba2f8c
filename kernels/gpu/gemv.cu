#include "kernels/gpu/gemv.hpp"

#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/gate.cuh"

// Plain loads beat a ring of bulk copies in shared memory here: a persistent grid that starts early takes what room is
// left on the first processors, and the others stay empty (measured on an H100: 2.9 against 1.0 to 2.9 TB/s over the
// products of a model).
namespace troupe::kernels::gpu {
namespace {

constexpr std::uint32_t warps = 4;

__device__ inline float2 two_of(std::uint32_t bits, __nv_bfloat16) {
  return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
}
__device__ inline float2 two_of(std::uint32_t bits, __half) {
  return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}

/// Eight products of a packet, in order.
template <class T>
__device__ float add_packet(float sum, const uint4& w, const uint4& x) {
  const std::uint32_t a[4] = {w.x, w.y, w.z, w.w}, b[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 u = two_of(a[j], T{}), v = two_of(b[j], T{});
    sum = fmaf(u.y, v.y, fmaf(u.x, v.x, sum));
  }
  return sum;
}

/// A weight row on its way: packets 32 i + lane of it, `depth` of them ahead.
template <int depth>
struct row_stream {
  const uint4* row;
  std::uint32_t packets;
  uint4 ahead[depth];
  __device__ void load(std::uint32_t first) {
#pragma unroll
    for (int u = 0; u < depth; ++u) {
      const std::uint32_t p = first + 32 * u + threadIdx.x % 32;
      ahead[u] = p < packets ? __ldcs(row + p) : uint4{0, 0, 0, 0};  // read once: leave the caches to others
    }
  }
};

template <class T>
__device__ void put(const matmul_args& a, std::uint64_t at, float sum) {
  if (a.accumulate)
    static_cast<float*>(a.y)[at] += sum;
  else if (a.y_type == dtype::f32)
    static_cast<float*>(a.y)[at] = sum;
  else
    static_cast<T*>(a.y)[at] = element<T>::put(sum);
}

/// Warp w: row w of the weight, or rows w and rows / 2 + w of a gated one.
template <class T, int depth, int tokens, bool gated, gate_activation activation>
__global__ void __launch_bounds__(32 * warps)
    gemv_kernel(const __grid_constant__ matmul_args a, const std::uint32_t* n_tokens) {
  constexpr int streams = gated ? 2 : 1;
  const std::uint32_t lane = threadIdx.x % 32, row = blockIdx.x * warps + threadIdx.x / 32;
  const std::uint32_t rows = gated ? a.rows / 2 : a.rows, packets = a.cols / 8;
  let_next_start();
  row_stream<depth> w[streams];
  if (row < rows) {
#pragma unroll
    for (int s = 0; s < streams; ++s) {
      w[s] = {
          static_cast<const uint4*>(a.weight) + (std::uint64_t{row} + s * std::uint64_t{rows}) * packets, packets, {}};
      w[s].load(0);
    }
  }
  wait_for_previous();
  if (row >= rows) return;  // whole warps
  const std::uint32_t n = *n_tokens;
  const auto* x = static_cast<const uint4*>(a.x);
  float sum[streams][tokens] = {};
  for (std::uint32_t first = 0; first < packets; first += 32 * depth) {
    uint4 now[streams][depth];
#pragma unroll
    for (int s = 0; s < streams; ++s) {
#pragma unroll
      for (int u = 0; u < depth; ++u) now[s][u] = w[s].ahead[u];
      w[s].load(first + 32 * depth);
    }
#pragma unroll
    for (int u = 0; u < depth; ++u) {
      const std::uint32_t p = first + 32 * u + lane;
      if (p >= packets) continue;
#pragma unroll
      for (int t = 0; t < tokens; ++t) {
        if (t >= n) continue;
        const uint4 v = x[t * packets + p];
#pragma unroll
        for (int s = 0; s < streams; ++s) sum[s][t] = add_packet<T>(sum[s][t], now[s][u], v);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < tokens; ++t) {
    float all[streams];
#pragma unroll
    for (int s = 0; s < streams; ++s) all[s] = warp_sum(sum[s][t]);
    if (lane != 0 || t >= n) continue;
    const std::uint64_t at = std::uint64_t{static_cast<std::uint32_t>(t)} * a.ld_y + row;
    if constexpr (gated)
      static_cast<T*>(a.y)[at] = element<T>::put(activate<activation>(all[0]) * all[1]);
    else
      put<T>(a, at, all[0]);
  }
}

template <bool gated, gate_activation activation>
cudaError_t launch(const matmul_args& a, gemv_depth depth, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                   cudaStream_t stream) {
  if (!can_gemv(a, max_tokens) || (gated && a.rows % 2 != 0)) return cudaErrorInvalidValue;
  const std::uint32_t rows = gated ? a.rows / 2 : a.rows;
  const auto run = [&](auto kernel) {
    return launch_dependent(kernel, (rows + warps - 1) / warps, 32 * warps, 0, stream, a, n_tokens);
  };
  const auto with_tokens = [&]<class T, int d>() {
    switch (max_tokens) {
      case 1:
        return run(gemv_kernel<T, d, 1, gated, activation>);
      case 2:
        return run(gemv_kernel<T, d, 2, gated, activation>);
      default:
        return run(gemv_kernel<T, d, 4, gated, activation>);
    }
  };
  const auto with_depth = [&]<class T>() {
    return depth == gemv_depth::two ? with_tokens.template operator()<T, 2>() : with_tokens.template operator()<T, 4>();
  };
  return a.type == dtype::f16 ? with_depth.template operator()<__half>()
                              : with_depth.template operator()<__nv_bfloat16>();
}

}  // namespace

bool can_gemv(const matmul_args& a, std::uint32_t max_tokens) {
  return (max_tokens == 1 || max_tokens == 2 || max_tokens == 4) && a.cols % 8 == 0 && a.type != dtype::f32 &&
         (!a.accumulate || a.y_type == dtype::f32);
}

cudaError_t gemv(const matmul_args& a, gemv_depth depth, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                 cudaStream_t stream) {
  return launch<false, gate_activation::silu>(a, depth, n_tokens, max_tokens, stream);
}

cudaError_t gemv_gated(const matmul_args& a, gate_activation activation, gemv_depth depth,
                       const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t stream) {
  if (a.y_type != a.type || a.accumulate) return cudaErrorInvalidValue;
  switch (activation) {
    case gate_activation::silu:
      return launch<true, gate_activation::silu>(a, depth, n_tokens, max_tokens, stream);
    case gate_activation::gelu_tanh:
      return launch<true, gate_activation::gelu_tanh>(a, depth, n_tokens, max_tokens, stream);
    case gate_activation::gelu_erf:
      return launch<true, gate_activation::gelu_erf>(a, depth, n_tokens, max_tokens, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace troupe::kernels::gpu
