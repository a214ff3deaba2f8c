#include "kernels/gpu/gemv_experts.hpp"

#include "kernels/gpu/gate.cuh"
#include "kernels/gpu/gemv_residual.cuh"
#include "kernels/gpu/last_block.cuh"
#include "kernels/gpu/route_token.cuh"

namespace troupe::kernels::gpu {
namespace {

constexpr int router_depth = 4, gated_depth = 4, combine_depth = 8;

/// Block e: expert e's logit, a quarter of the columns per warp.
template <class T, int per_lane>
__global__ void __launch_bounds__(32 * gemv_warps)
    router_kernel(const __grid_constant__ expert_router_args a, const std::uint32_t* n_tokens) {
  __shared__ float parts[gemv_warps];
  __shared__ bool is_last;
  const std::uint32_t warp = threadIdx.x / 32, expert = blockIdx.x;
  const std::uint32_t packets = a.cols / 8, quarter = (packets + gemv_warps - 1) / gemv_warps;
  const std::uint32_t first = min(warp * quarter, packets);
  let_next_start();
  row_stream<router_depth> w[1];
  w[0].row = static_cast<const uint4*>(a.weight) + std::uint64_t{expert} * packets + first;
  w[0].packets = min(quarter, packets - first);
  w[0].load(0);
  wait_for_previous();
  if (*n_tokens == 0) return;
  rms_factor rms;
  rms.begin(a.scale);
  float sum[1][1] = {};
  add_rows<T>(w, static_cast<const uint4*>(a.x) + first, 0, 1, sum);
  const float part = warp_sum(sum[0][0]);
  if (threadIdx.x % 32 == 0) parts[warp] = part;
  const float factor = rms.factor(a.scale, a.cols);
  __syncthreads();
  if (threadIdx.x == 0) a.logits[expert] = factor * ((parts[0] + parts[1]) + (parts[2] + parts[3]));
  if (!is_last_block(is_last, gridDim.x, [&] { return a.routes.counts; }) || warp != 0) return;
  __threadfence();
  route_token<per_lane, false>(a.logits, a.renormalized, a.routes, 0);
}

/// Warp (i, j): element i of expert j's row of y.
template <class T>
__global__ void __launch_bounds__(32 * gemv_warps)
    gated_kernel(const __grid_constant__ expert_gemv_args a, gate_activation activation,
                 const __grid_constant__ rms_scale scale, T* y, const std::uint32_t* n_tokens) {
  const std::uint32_t packets = a.cols / 8, rows = a.rows / 2, row = blockIdx.x * gemv_warps + threadIdx.x / 32;
  let_next_start();
  wait_for_previous();
  if (*n_tokens == 0) return;
  rms_factor rms;
  rms.begin(scale);
  float sum[2][1] = {};
  if (row < rows) {
    const std::byte* const matrix = static_cast<const std::byte*>(a.weight) + a.routes.chosen[blockIdx.y] * a.stride;
    row_stream<gated_depth> w[2];
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      w[s].row = reinterpret_cast<const uint4*>(matrix) + (std::uint64_t{row} + s * std::uint64_t{rows}) * packets;
      w[s].packets = packets;
      w[s].load(0);
    }
    add_rows<T>(w, static_cast<const uint4*>(a.x), 0, 1, sum);
  }
  const float factor = rms.factor(scale, a.cols);
  if (row >= rows) return;  // whole warps
  const float gate = factor * warp_sum(sum[0][0]), up = factor * warp_sum(sum[1][0]);
  if (threadIdx.x % 32 == 0)
    y[std::uint64_t{blockIdx.y} * rows + row] = element<T>::put(activate(activation, gate) * up);
}

/// A row of each chosen expert, times its share: the packets of all of them, and of x, are one queue. More warps for a
/// row were slower, and so were longer queues.
template <class T, int depth>
struct expert_row {
  using arguments = expert_gemv_args;
  const expert_gemv_args& a;
  __device__ expert_row(const gemv_residual_args&, const arguments& experts) : a(experts) {}
  __device__ explicit expert_row(const arguments& experts) : a(experts) {}
  __device__ void start(std::uint32_t) {}  // which experts is not known yet
  __device__ float sum(std::uint32_t row) {
    const std::uint32_t lane = threadIdx.x % 32, n_used = a.routes.n_used, packets = a.cols / 8;
    const std::uint32_t expert = lane < n_used ? a.routes.chosen[lane] : 0;
    const float share = lane < n_used ? a.routes.shares[lane] : 0.0f;
    const std::byte* const weight = static_cast<const std::byte*>(a.weight) + std::uint64_t{row} * packets * 16;
    const auto* const x = static_cast<const uint4*>(a.x);
    struct pair {
      uint4 w, x;
    };
    std::uint32_t next_j = 0, next_first = 0;
    const auto next = [&] {
      pair p{{0, 0, 0, 0}, {0, 0, 0, 0}};
      if (next_j < n_used) {
        const std::uint64_t e = __shfl_sync(all_lanes, expert, static_cast<int>(next_j));
        if (const std::uint32_t at = next_first + lane; at < packets)
          p = {__ldcs(reinterpret_cast<const uint4*>(weight + e * a.stride) + at), x[next_j * packets + at]};
      }
      if (next_first += 32; next_first >= packets) next_first = 0, ++next_j;
      return p;
    };
    pair ahead[depth];
#pragma unroll
    for (pair& p : ahead) p = next();
    float total = 0;
    for (std::uint32_t j = 0, first = 0; j < n_used;) {
#pragma unroll
      for (pair& p : ahead) {
        const pair now = p;
        p = next();
        const float part = add_packet<T>(0.0f, now.w, now.x);  // zeros beyond the last
        total = fmaf(__shfl_sync(all_lanes, share, static_cast<int>(j % 32)), part, total);
        if (first += 32; first >= packets) first = 0, ++j;
      }
    }
    return total;
  }
};

/// Warp i: element i.
template <class T>
__global__ void __launch_bounds__(32 * gemv_warps)
    combine_kernel(const __grid_constant__ expert_gemv_args a, float* out, bool accumulate,
                   const std::uint32_t* n_tokens) {
  const std::uint32_t row = blockIdx.x * gemv_warps + threadIdx.x / 32;
  let_next_start();
  wait_for_previous();
  if (*n_tokens == 0 || row >= a.rows) return;  // whole warps
  const float sum = warp_sum(expert_row<T, combine_depth>(a).sum(row));
  if (threadIdx.x % 32 == 0) out[row] = accumulate ? out[row] + sum : sum;
}

bool fits(const expert_gemv_args& a) { return can_gemv_experts(a.type, a.routes, a.cols, 8); }

}  // namespace

bool can_gemv_experts(dtype type, const expert_routes& r, std::uint32_t hidden, std::uint32_t ffn) {
  return (type == dtype::f16 || type == dtype::bf16) && hidden % 8 == 0 && ffn % 8 == 0 && r.n_used > 0 &&
         r.n_used <= 32 && r.n_used <= r.n_experts && r.n_experts <= 1024;
}

cudaError_t gemv_route(const expert_router_args& a, const std::uint32_t* n_tokens, cudaStream_t stream) {
  const expert_routes& r = a.routes;
  if (!can_gemv_experts(a.type, r, a.cols, 8) || a.scale.n_squares % 4 != 0) return cudaErrorInvalidValue;
  return with_16_bits(a.type, [&](auto x) {
    using T = decltype(x);
    const auto kernel = r.n_experts <= 32    ? router_kernel<T, 1>
                        : r.n_experts <= 128 ? router_kernel<T, 4>
                                             : router_kernel<T, 32>;
    return launch_dependent(kernel, r.n_experts, 32 * gemv_warps, 0, stream, a, n_tokens);
  });
}

cudaError_t gemv_gated_experts(const expert_gemv_args& a, gate_activation activation, const rms_scale& scale, void* y,
                               const std::uint32_t* n_tokens, cudaStream_t stream) {
  if (!fits(a) || a.rows == 0 || a.rows % 2 != 0 || scale.n_squares % 4 != 0) return cudaErrorInvalidValue;
  return with_16_bits(a.type, [&](auto x) {
    using T = decltype(x);
    return launch_dependent(gated_kernel<T>, dim3(gemv_blocks(a.rows / 2), a.routes.n_used), 32 * gemv_warps, 0, stream,
                            a, activation, scale, static_cast<T*>(y), n_tokens);
  });
}

cudaError_t gemv_combine_experts(const expert_gemv_args& a, float* out, bool accumulate, const std::uint32_t* n_tokens,
                                 cudaStream_t stream) {
  if (!fits(a) || a.rows == 0) return cudaErrorInvalidValue;
  return with_16_bits(a.type, [&](auto x) {
    return launch_dependent(combine_kernel<decltype(x)>, gemv_blocks(a.rows), 32 * gemv_warps, 0, stream, a, out,
                            accumulate, n_tokens);
  });
}

cudaError_t gemv_residual_experts(const expert_gemv_args& e, gemv_residual_args a, const std::uint32_t* n_tokens,
                                  cudaStream_t stream) {
  if (!fits(e) || e.type != dtype::bf16 || a.rows != e.rows) return cudaErrorInvalidValue;
  a.cols = e.cols;
  return launch_residual<expert_row<__nv_bfloat16, combine_depth>>(a, e, n_tokens, stream);
}

bool can_gemv_residual_experts_in_group(std::uint32_t rows, std::uint32_t n_sms) {
  return residual_fits<expert_row<__nv_bfloat16, combine_depth>>(rows, n_sms);
}

}  // namespace troupe::kernels::gpu
