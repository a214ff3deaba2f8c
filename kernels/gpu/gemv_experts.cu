#include "kernels/gpu/gemv_experts.hpp"

#include "kernels/gpu/gate.cuh"
#include "kernels/gpu/gemv_residual.cuh"
#include "kernels/gpu/route_token.cuh"

namespace troupe::kernels::gpu {
namespace {

constexpr int router_depth = 4, gated_depth = 4, gated_rows = 1, combine_depth = 12;

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
  if (threadIdx.x == 0) {
    a.logits[expert] = factor * ((parts[0] + parts[1]) + (parts[2] + parts[3]));
    __threadfence();
    is_last = atomicAdd(a.routes.counts, 1u) + 1 == gridDim.x;
    if (is_last) *a.routes.counts = 0;
  }
  __syncthreads();
  if (!is_last || warp != 0) return;
  __threadfence();
  route_token<per_lane, false>(a.logits, a.renormalized, a.routes, 0);
}

/// Block (b, j): rows of expert j's y, `n_rows` per warp, whose packets are one queue.
template <class T, int depth, int n_rows>
__global__ void __launch_bounds__(32 * gemv_warps)
    gated_kernel(const __grid_constant__ expert_gemv_args a, gate_activation activation,
                 const __grid_constant__ rms_scale scale, T* y, const std::uint32_t* n_tokens) {
  const std::uint32_t lane = threadIdx.x % 32, packets = a.cols / 8, rows = a.rows / 2;
  const std::uint32_t first_row = (blockIdx.x * gemv_warps + threadIdx.x / 32) * n_rows;
  let_next_start();
  wait_for_previous();
  if (*n_tokens == 0) return;
  const auto* const gates =
      reinterpret_cast<const uint4*>(static_cast<const std::byte*>(a.weight) + a.routes.chosen[blockIdx.y] * a.stride);
  const auto* const ups = gates + std::uint64_t{rows} * packets;
  rms_factor rms;
  rms.begin(scale);
  const std::uint32_t end_row = min(first_row + n_rows, rows);
  struct pair {
    uint4 gate, up;
  };
  std::uint32_t next_row = first_row, next_first = 0;
  const auto next = [&] {
    pair p{{0, 0, 0, 0}, {0, 0, 0, 0}};
    if (const std::uint32_t at = next_first + lane; next_row < end_row && at < packets) {
      const std::uint64_t from = std::uint64_t{next_row} * packets + at;
      p = {__ldcs(gates + from), __ldcs(ups + from)};
    }
    if (next_first += 32; next_first >= packets) next_first = 0, ++next_row;
    return p;
  };
  pair ahead[depth];
#pragma unroll
  for (pair& p : ahead) p = next();
  const float factor = rms.factor(scale, a.cols);
  const auto* const x = static_cast<const uint4*>(a.x);
  float gate = 0, up = 0;
  for (std::uint32_t row = first_row, first = 0; row < end_row;) {
#pragma unroll
    for (pair& p : ahead) {
      const pair now = p;
      p = next();
      const uint4 v = first + lane < packets ? x[first + lane] : uint4{0, 0, 0, 0};
      gate = add_packet<T>(gate, now.gate, v);
      up = add_packet<T>(up, now.up, v);
      if (first += 32; first < packets) continue;
      gate = factor * warp_sum(gate), up = factor * warp_sum(up);
      if (lane == 0 && row < end_row)
        y[std::uint64_t{blockIdx.y} * rows + row] = element<T>::put(activate(activation, gate) * up);
      gate = up = 0, first = 0, ++row;
    }
  }
}

/// A row of each of a token's experts, with their shares, half of it per warp: the packets of all experts are one
/// queue.
template <class T, int depth>
struct expert_row {
  using arguments = expert_gemv_args;
  static constexpr std::uint32_t warps = 2;
  const expert_gemv_args& a;
  __device__ expert_row(const gemv_residual_args&, const arguments& experts) : a(experts) {}
  __device__ explicit expert_row(const arguments& experts) : a(experts) {}
  __device__ void start(std::uint32_t, std::uint32_t) {}  // which experts is not known yet
  __device__ float sum(std::uint32_t row, std::uint32_t part) {
    const std::uint32_t lane = threadIdx.x % 32, n_used = a.routes.n_used, packets = a.cols / 8;
    const std::uint32_t per_expert = (packets + 31) / 32, half = (n_used * per_expert + 1) / 2;
    const std::uint32_t begin = part * half, end = min(begin + half, n_used * per_expert);
    const std::uint32_t expert = lane < n_used ? a.routes.chosen[lane] : 0;
    const float share = lane < n_used ? a.routes.shares[lane] : 0.0f;
    const std::byte* const weight = static_cast<const std::byte*>(a.weight) + std::uint64_t{row} * packets * 16;
    const auto* const x = static_cast<const uint4*>(a.x);
    struct cursor {
      std::uint32_t j, first;
      __device__ void advance(std::uint32_t n) {
        if (first += 32; first >= n) first = 0, ++j;
      }
    };
    cursor loaded{begin / per_expert, begin % per_expert * 32}, added = loaded;
    std::uint32_t n_loaded = begin;
    const auto next = [&] {
      uint4 p{0, 0, 0, 0};
      if (n_loaded < end) {
        const std::uint64_t e = __shfl_sync(all_lanes, expert, static_cast<int>(loaded.j));
        if (const std::uint32_t at = loaded.first + lane; at < packets)
          p = __ldcs(reinterpret_cast<const uint4*>(weight + e * a.stride) + at);
      }
      ++n_loaded;
      loaded.advance(packets);
      return p;
    };
    uint4 ahead[depth];
#pragma unroll
    for (uint4& p : ahead) p = next();
    float total = 0;
    for (std::uint32_t i = begin; i < end; i += depth) {
#pragma unroll
      for (uint4& p : ahead) {
        const uint4 now = p;
        p = next();
        const std::uint32_t at = added.first + lane;
        const uint4 v = added.j < n_used && at < packets ? x[added.j * packets + at] : uint4{0, 0, 0, 0};
        // Beyond the end the weights are zeros.
        const float product = add_packet<T>(0.0f, now, v);
        total = fmaf(__shfl_sync(all_lanes, share, static_cast<int>(added.j % 32)), product, total);
        added.advance(packets);
      }
    }
    return total;
  }
};

/// Warps (2 i, 2 i + 1): element i.
template <class T>
__global__ void __launch_bounds__(64 * gemv_warps)
    combine_kernel(const __grid_constant__ expert_gemv_args a, float* out, bool accumulate,
                   const std::uint32_t* n_tokens) {
  __shared__ float parts[2 * gemv_warps];
  const std::uint32_t warp = threadIdx.x / 32, row = blockIdx.x * gemv_warps + warp / 2;
  let_next_start();
  wait_for_previous();
  if (*n_tokens == 0) return;
  const float part = row < a.rows ? warp_sum(expert_row<T, combine_depth>(a).sum(row, warp % 2)) : 0.0f;
  if (threadIdx.x % 32 == 0) parts[warp] = part;
  __syncthreads();
  if (threadIdx.x % 64 != 0 || row >= a.rows) return;
  const float sum = parts[warp] + parts[warp + 1];
  out[row] = accumulate ? out[row] + sum : sum;
}

template <class F>
cudaError_t with_half(dtype type, F&& f) {
  return type == dtype::f16 ? f(__half{}) : f(__nv_bfloat16{});
}

bool fits(const expert_gemv_args& a) { return can_gemv_experts(a.type, a.routes, a.cols, 8); }

constexpr unsigned blocks(std::uint32_t warps) { return (warps + gemv_warps - 1) / gemv_warps; }

}  // namespace

bool can_gemv_experts(dtype type, const expert_routes& r, std::uint32_t hidden, std::uint32_t ffn) {
  return (type == dtype::f16 || type == dtype::bf16) && hidden % 8 == 0 && ffn % 8 == 0 && r.n_used > 0 &&
         r.n_used <= 32 && r.n_used <= r.n_experts && r.n_experts <= 1024;
}

cudaError_t gemv_route(const expert_router_args& a, const std::uint32_t* n_tokens, cudaStream_t stream) {
  const expert_routes& r = a.routes;
  if (!can_gemv_experts(a.type, r, a.cols, 8) || a.scale.n_squares % 4 != 0) return cudaErrorInvalidValue;
  return with_half(a.type, [&](auto x) {
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
  return with_half(a.type, [&](auto x) {
    using T = decltype(x);
    const dim3 grid(blocks((a.rows / 2 + gated_rows - 1) / gated_rows), a.routes.n_used);
    return launch_dependent(gated_kernel<T, gated_depth, gated_rows>, grid, 32 * gemv_warps, 0, stream, a, activation,
                            scale, static_cast<T*>(y), n_tokens);
  });
}

cudaError_t gemv_combine_experts(const expert_gemv_args& a, float* out, bool accumulate, const std::uint32_t* n_tokens,
                                 cudaStream_t stream) {
  if (!fits(a) || a.rows == 0) return cudaErrorInvalidValue;
  return with_half(a.type, [&](auto x) {
    return launch_dependent(combine_kernel<decltype(x)>, blocks(a.rows), 64 * gemv_warps, 0, stream, a, out, accumulate,
                            n_tokens);
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
