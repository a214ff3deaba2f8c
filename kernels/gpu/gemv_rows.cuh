#pragma once
#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/gemv.hpp"

/// What the kernels of gemv.hpp are made of: a warp streams one or two rows of the weight past the activations.
///
/// Plain loads beat a ring of bulk copies in shared memory here: a persistent grid that starts early takes what room is
/// left on the first processors, and the others stay empty (measured on an H100: 2.9 against 1.0 to 2.9 TB/s over the
/// products of a model).
namespace troupe::kernels::gpu {

constexpr std::uint32_t gemv_warps = 4;
/// For so many warps.
constexpr unsigned gemv_blocks(std::uint32_t warps) { return (warps + gemv_warps - 1) / gemv_warps; }

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
  const uint4* row = nullptr;
  std::uint32_t packets = 0;
  uint4 ahead[depth] = {};
  __device__ void load(std::uint32_t first) {
#pragma unroll
    for (int u = 0; u < depth; ++u) {
      const std::uint32_t p = first + 32 * u + threadIdx.x % 32;
      ahead[u] = p < packets ? __ldcs(row + p) : uint4{0, 0, 0, 0};  // read once: leave the caches to others
    }
  }
};

/// sum[s][t] += row s times the activations x[t] of this lane's packets; the first ones are on their way. x[t] begins
/// t * stride packets on.
template <class T, int depth, int streams, int tokens>
__device__ void add_rows(row_stream<depth> (&w)[streams], const uint4* x, std::uint32_t stride, std::uint32_t n,
                         float (&sum)[streams][tokens]) {
  const std::uint32_t lane = threadIdx.x % 32, packets = w[0].packets;
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
        const uint4 v = x[t * stride + p];
#pragma unroll
        for (int s = 0; s < streams; ++s) sum[s][t] = add_packet<T>(sum[s][t], now[s][u], v);
      }
    }
  }
}

/// The factor of an activation that its producer left undivided by its root mean square (rms_scale): `begin` once what
/// it wrote can be read, `factor` by all threads of the block together. Without squares it is 1.
struct rms_factor {
  float share = 0;  ///< of this thread
  __device__ void begin(const rms_scale& s) {
    if (s.squares == nullptr) return;
    const auto* squares = reinterpret_cast<const float4*>(s.squares);
    for (std::uint32_t i = threadIdx.x; i < s.n_squares / 4; i += 32 * gemv_warps) {
      const float4 v = squares[i];
      share += (v.x + v.y) + (v.z + v.w);
    }
  }
  __device__ float factor(const rms_scale& s, std::uint32_t cols) const {
    if (s.squares == nullptr) return 1.0f;
    __shared__ float of_warp[gemv_warps];
    const float all = warp_sum(share);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = all;
    __syncthreads();
    return 1.0f / sqrtf(((of_warp[0] + of_warp[1]) + (of_warp[2] + of_warp[3])) / static_cast<float>(cols) + s.eps);
  }
};

}  // namespace troupe::kernels::gpu
