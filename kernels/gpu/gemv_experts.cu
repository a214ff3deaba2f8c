#include "kernels/gpu/gemv_experts.hpp"

#include "kernels/gpu/gate.cuh"
#include "kernels/gpu/gemv_residual.cuh"
#include "kernels/gpu/route_token.cuh"

namespace troupe::kernels::gpu {
namespace {

constexpr int router_depth = 4, gated_depth = 4, combine_depth = 8;

/// Block e: expert e's logits, a quarter of the columns per warp.
template <class T, int per_lane, int tokens>
__global__ void __launch_bounds__(32 * gemv_warps)
    router_kernel(const __grid_constant__ expert_router_args a, const std::uint32_t* n_tokens) {
  __shared__ float parts[gemv_warps][tokens];
  __shared__ bool is_last;
  const std::uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, expert = blockIdx.x;
  const std::uint32_t packets = a.cols / 8, quarter = (packets + gemv_warps - 1) / gemv_warps;
  const std::uint32_t first = min(warp * quarter, packets);
  let_next_start();
  row_stream<router_depth> w[1];
  w[0].row = static_cast<const uint4*>(a.weight) + std::uint64_t{expert} * packets + first;
  w[0].packets = min(quarter, packets - first);
  w[0].load(0);
  wait_for_previous();
  const std::uint32_t n = *n_tokens;
  if (n == 0) return;
  rms_factor rms;
  rms.begin(a.scale);
  float sum[1][tokens] = {};
  add_rows<T>(w, static_cast<const uint4*>(a.x) + first, packets, n, sum);
#pragma unroll
  for (int t = 0; t < tokens; ++t) {
    const float part = warp_sum(sum[0][t]);
    if (lane == 0) parts[warp][t] = part;
  }
  const float factor = rms.factor(a.scale, a.cols);
  __syncthreads();
  if (threadIdx.x < tokens && threadIdx.x < n) {
    const std::uint32_t t = threadIdx.x;
    a.logits[t * a.routes.n_experts + expert] = factor * ((parts[0][t] + parts[1][t]) + (parts[2][t] + parts[3][t]));
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(a.routes.counts, 1u) + 1 == gridDim.x;
    if (is_last) *a.routes.counts = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  if (warp < n) route_token<per_lane, false>(a.logits, a.renormalized, a.routes, warp);
}

/// Warp (i, r): element i of row r of y.
template <class T>
__global__ void __launch_bounds__(32 * gemv_warps)
    gated_kernel(const __grid_constant__ expert_gemv_args a, gate_activation activation,
                 const __grid_constant__ rms_scale scale, T* y, const std::uint32_t* n_tokens) {
  const std::uint32_t packets = a.cols / 8, rows = a.rows / 2, row = blockIdx.x * gemv_warps + threadIdx.x / 32;
  const std::uint32_t token = blockIdx.y / a.routes.n_used;
  let_next_start();
  wait_for_previous();
  if (token >= *n_tokens) return;
  rms_factor rms;
  rms.begin(scale);
  row_stream<gated_depth> w[2];
  float sum[2][1] = {};
  if (row < rows) {
    const std::byte* const matrix = static_cast<const std::byte*>(a.weight) + a.routes.chosen[blockIdx.y] * a.stride;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      w[s].row = reinterpret_cast<const uint4*>(matrix) + (std::uint64_t{row} + s * std::uint64_t{rows}) * packets;
      w[s].packets = packets;
      w[s].load(0);
    }
    add_rows<T>(w, static_cast<const uint4*>(a.x) + std::uint64_t{token} * packets, packets, 1, sum);
  }
  const float factor = rms.factor(scale, a.cols);
  if (row >= rows) return;  // whole warps
  const float gate = factor * warp_sum(sum[0][0]), up = factor * warp_sum(sum[1][0]);
  if (threadIdx.x % 32 == 0)
    y[std::uint64_t{blockIdx.y} * rows + row] = element<T>::put(activate(activation, gate) * up);
}

/// A row of each of a token's experts, with their shares: packets of all of them in one queue.
template <class T, int depth>
struct expert_row {
  using arguments = expert_gemv_args;
  struct pair {
    uint4 w, x;
  };
  const expert_gemv_args& a;
  __device__ expert_row(const gemv_residual_args&, const arguments& experts) : a(experts) {}
  __device__ explicit expert_row(const arguments& experts) : a(experts) {}
  __device__ void start(std::uint32_t) {}  // which experts is not known yet
  __device__ float sum(std::uint32_t row, std::uint32_t token = 0) {
    const std::uint32_t lane = threadIdx.x % 32, n_used = a.routes.n_used, packets = a.cols / 8;
    const std::uint32_t own = token * n_used + lane;
    const std::uint32_t expert = lane < n_used ? a.routes.chosen[own] : 0;
    const float share = lane < n_used ? a.routes.shares[own] : 0.0f;
    const auto* const x = static_cast<const uint4*>(a.x) + std::uint64_t{token} * n_used * packets;
    std::uint32_t next_j = 0, next_first = 0;
    const auto next = [&] {
      pair p{{0, 0, 0, 0}, {0, 0, 0, 0}};
      if (next_j < n_used) {
        const std::uint64_t e = __shfl_sync(all_lanes, expert, static_cast<int>(next_j));
        const auto* const matrix =
            reinterpret_cast<const uint4*>(static_cast<const std::byte*>(a.weight) + e * a.stride);
        if (const std::uint32_t at = next_first + lane; at < packets)
          p = {__ldcs(matrix + std::uint64_t{row} * packets + at), x[next_j * packets + at]};
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

/// Warp (i, t): element i of token t's sum.
template <class T>
__global__ void __launch_bounds__(32 * gemv_warps)
    combine_kernel(const __grid_constant__ expert_gemv_args a, float* out, bool accumulate,
                   const std::uint32_t* n_tokens) {
  const std::uint32_t row = blockIdx.x * gemv_warps + threadIdx.x / 32, token = blockIdx.y;
  let_next_start();
  wait_for_previous();
  if (token >= *n_tokens || row >= a.rows) return;  // whole warps
  const float sum = warp_sum(expert_row<T, combine_depth>(a).sum(row, token));
  float* const to = out + std::uint64_t{token} * a.rows + row;
  if (threadIdx.x % 32 == 0) *to = accumulate ? *to + sum : sum;
}

template <class F>
cudaError_t with_half(dtype type, F&& f) {
  return type == dtype::f16 ? f(__half{}) : f(__nv_bfloat16{});
}

bool fits(const expert_gemv_args& a, std::uint32_t max_tokens) {
  return can_gemv_experts(a.type, a.routes, a.cols, 8) && max_tokens <= gemv_most_tokens;
}

constexpr unsigned blocks(std::uint32_t warps) { return (warps + gemv_warps - 1) / gemv_warps; }

}  // namespace

bool can_gemv_experts(dtype type, const expert_routes& r, std::uint32_t hidden, std::uint32_t ffn) {
  return (type == dtype::f16 || type == dtype::bf16) && hidden % 8 == 0 && ffn % 8 == 0 && r.n_used > 0 &&
         r.n_used <= 32 && r.n_used <= r.n_experts && r.n_experts <= 1024;
}

cudaError_t gemv_route(const expert_router_args& a, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                       cudaStream_t stream) {
  const expert_routes& r = a.routes;
  if (!can_gemv_experts(a.type, r, a.cols, 8) || max_tokens > gemv_most_tokens) return cudaErrorInvalidValue;
  if (a.scale.squares != nullptr && (max_tokens != 1 || a.scale.n_squares % 4 != 0)) return cudaErrorInvalidValue;
  if (max_tokens == 0) return cudaSuccess;
  const auto run = [&](auto kernel) {
    return launch_dependent(kernel, r.n_experts, 32 * gemv_warps, 0, stream, a, n_tokens);
  };
  return with_half(a.type, [&](auto x) {
    using T = decltype(x);
    const auto of_tokens = [&]<int tokens>() {
      return r.n_experts <= 32    ? run(router_kernel<T, 1, tokens>)
             : r.n_experts <= 128 ? run(router_kernel<T, 4, tokens>)
                                  : run(router_kernel<T, 32, tokens>);
    };
    return max_tokens == 1 ? of_tokens.template operator()<1>() : of_tokens.template operator()<gemv_most_tokens>();
  });
}

cudaError_t gemv_gated_experts(const expert_gemv_args& a, gate_activation activation, const rms_scale& scale, void* y,
                               const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t stream) {
  if (!fits(a, max_tokens) || a.rows % 2 != 0) return cudaErrorInvalidValue;
  if (scale.squares != nullptr && (max_tokens != 1 || scale.n_squares % 4 != 0)) return cudaErrorInvalidValue;
  if (max_tokens == 0 || a.rows == 0) return cudaSuccess;
  return with_half(a.type, [&](auto x) {
    using T = decltype(x);
    return launch_dependent(gated_kernel<T>, dim3(blocks(a.rows / 2), max_tokens * a.routes.n_used), 32 * gemv_warps, 0,
                            stream, a, activation, scale, static_cast<T*>(y), n_tokens);
  });
}

cudaError_t gemv_combine_experts(const expert_gemv_args& a, float* out, bool accumulate, const std::uint32_t* n_tokens,
                                 std::uint32_t max_tokens, cudaStream_t stream) {
  if (!fits(a, max_tokens)) return cudaErrorInvalidValue;
  if (max_tokens == 0 || a.rows == 0) return cudaSuccess;
  return with_half(a.type, [&](auto x) {
    return launch_dependent(combine_kernel<decltype(x)>, dim3(blocks(a.rows), max_tokens), 32 * gemv_warps, 0, stream,
                            a, out, accumulate, n_tokens);
  });
}

cudaError_t gemv_residual_experts(const expert_gemv_args& e, gemv_residual_args a, const std::uint32_t* n_tokens,
                                  cudaStream_t stream) {
  if (!fits(e, 1) || e.type != dtype::bf16 || a.rows != e.rows) return cudaErrorInvalidValue;
  a.cols = e.cols;
  return launch_residual<expert_row<__nv_bfloat16, combine_depth>>(a, e, n_tokens, stream);
}

bool can_gemv_residual_experts_in_group(std::uint32_t rows, std::uint32_t n_sms) {
  return residual_fits<expert_row<__nv_bfloat16, combine_depth>>(rows, n_sms);
}

}  // namespace troupe::kernels::gpu
