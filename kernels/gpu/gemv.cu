#include "kernels/gpu/gate.cuh"
#include "kernels/gpu/gemv_rows.cuh"

namespace troupe::kernels::gpu {
namespace {

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
__global__ void __launch_bounds__(32 * gemv_warps)
    gemv_kernel(const __grid_constant__ matmul_args a, const __grid_constant__ rms_scale scale,
                const std::uint32_t* n_tokens) {
  constexpr int streams = gated ? 2 : 1;
  const std::uint32_t lane = threadIdx.x % 32, row = blockIdx.x * gemv_warps + threadIdx.x / 32;
  const std::uint32_t rows = gated ? a.rows / 2 : a.rows, packets = a.cols / 8;
  let_next_start();
  row_stream<depth> w[streams];
  if (row < rows) {
#pragma unroll
    for (int s = 0; s < streams; ++s) {
      w[s].row = static_cast<const uint4*>(a.weight) + (std::uint64_t{row} + s * std::uint64_t{rows}) * packets;
      w[s].packets = packets;
      w[s].load(0);
    }
  }
  wait_for_previous();
  rms_factor rms;
  rms.begin(scale);
  const std::uint32_t n = *n_tokens;
  float sum[streams][tokens] = {};
  if (row < rows) add_rows<T>(w, static_cast<const uint4*>(a.x), packets, n, sum);
  const float factor = rms.factor(scale, a.cols);
  if (row >= rows) return;  // whole warps
#pragma unroll
  for (int t = 0; t < tokens; ++t) {
    float all[streams];
#pragma unroll
    for (int s = 0; s < streams; ++s) all[s] = factor * warp_sum(sum[s][t]);
    if (lane != 0 || t >= n) continue;
    const std::uint64_t at = std::uint64_t{static_cast<std::uint32_t>(t)} * a.ld_y + row;
    if constexpr (gated)
      static_cast<T*>(a.y)[at] = element<T>::put(activate<activation>(all[0]) * all[1]);
    else
      put<T>(a, at, all[0]);
  }
}

template <bool gated, gate_activation activation>
cudaError_t launch(const matmul_args& a, const rms_scale& scale, gemv_depth depth, const std::uint32_t* n_tokens,
                   std::uint32_t max_tokens, cudaStream_t stream) {
  if (!can_gemv(a, depth, max_tokens) || (gated && a.rows % 2 != 0)) return cudaErrorInvalidValue;
  if (scale.squares != nullptr && (max_tokens != 1 || scale.n_squares % 4 != 0)) return cudaErrorInvalidValue;
  const std::uint32_t rows = gated ? a.rows / 2 : a.rows;
  const auto run = [&](auto kernel) {
    return launch_dependent(kernel, gemv_blocks(rows), 32 * gemv_warps, 0, stream, a, scale, n_tokens);
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
    if (depth == gemv_depth::eight) return run(gemv_kernel<T, 8, 1, gated, activation>);
    return depth == gemv_depth::two ? with_tokens.template operator()<T, 2>() : with_tokens.template operator()<T, 4>();
  };
  return with_16_bits(a.type, [&](auto x) { return with_depth.template operator()<decltype(x)>(); });
}

}  // namespace

bool can_gemv(const matmul_args& a, gemv_depth depth, std::uint32_t max_tokens) {
  return (max_tokens == 1 || (depth != gemv_depth::eight && (max_tokens == 2 || max_tokens == 4))) && a.cols % 8 == 0 &&
         a.type != dtype::f32 && (!a.accumulate || a.y_type == dtype::f32);
}

cudaError_t gemv(const matmul_args& a, const rms_scale& scale, gemv_depth depth, const std::uint32_t* n_tokens,
                 std::uint32_t max_tokens, cudaStream_t stream) {
  return launch<false, gate_activation::silu>(a, scale, depth, n_tokens, max_tokens, stream);
}

cudaError_t gemv_gated(const matmul_args& a, gate_activation activation, const rms_scale& scale, gemv_depth depth,
                       const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t stream) {
  if (a.y_type != a.type || a.accumulate) return cudaErrorInvalidValue;
  switch (activation) {
    case gate_activation::silu:
      return launch<true, gate_activation::silu>(a, scale, depth, n_tokens, max_tokens, stream);
    case gate_activation::gelu_tanh:
      return launch<true, gate_activation::gelu_tanh>(a, scale, depth, n_tokens, max_tokens, stream);
    case gate_activation::gelu_erf:
      return launch<true, gate_activation::gelu_erf>(a, scale, depth, n_tokens, max_tokens, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace troupe::kernels::gpu
