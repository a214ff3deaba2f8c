#include "kernels/gpu/experts.hpp"

#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/route_token.cuh"

namespace troupe::kernels::gpu {
namespace {

constexpr std::uint32_t route_warps = 4, group_threads = 256, combine_threads = 128;

/// A warp per token.
template <int per_lane>
__global__ void __launch_bounds__(32 * route_warps)
    route_kernel(const float* logits, bool renormalized, expert_routes r, const std::uint32_t* n_tokens) {
  let_next_start();
  wait_for_previous();
  const std::uint32_t t = blockIdx.x * route_warps + threadIdx.x / 32;
  if (t >= *n_tokens) return;  // whole warps
  route_token<per_lane, true>(logits, renormalized, r, t);
}

/// The sum over a block's threads, on each of them. `parts`: a word per warp, not in use.
__device__ std::uint32_t block_sum(std::uint32_t x, std::uint32_t* parts) {
  x = __reduce_add_sync(all_lanes, x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (std::uint32_t w = 0; w < group_threads / 32; ++w) x += parts[w];
  __syncthreads();
  return x;
}

/// Block e: where the rows and the tiles of expert e lie, and which token each row is of. Bytes: chosen once per
/// expert.
__global__ void __launch_bounds__(group_threads)
    group_kernel(expert_routes r, std::uint32_t tile_rows, const std::uint32_t* n_tokens) {
  __shared__ std::uint32_t parts[group_threads / 32];
  let_next_start();
  wait_for_previous();
  const std::uint32_t e = blockIdx.x, count = r.counts[e], n = *n_tokens;
  const auto tiles_of = [&](std::uint32_t rows) { return (rows + tile_rows - 1) / tile_rows; };
  std::uint32_t rows_before = 0, tiles_before = 0;
  for (std::uint32_t i = threadIdx.x; i < e; i += group_threads) {
    rows_before += r.counts[i];
    tiles_before += tiles_of(r.counts[i]);
  }
  rows_before = block_sum(rows_before, parts);
  tiles_before = block_sum(tiles_before, parts);
  if (e + 1 == r.n_experts && threadIdx.x == 0) {
    *r.n_rows = rows_before + count;
    *r.n_tiles = tiles_before + tiles_of(count);
  }
  for (std::uint32_t i = threadIdx.x; i < tiles_of(count); i += group_threads)
    r.tiles[tiles_before + i] = {e, rows_before + i * tile_rows, rows_before + min(count, (i + 1) * tile_rows), 0};

  const std::uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (std::uint32_t first = 0, found = 0; found < count && first < n; first += group_threads) {
    const std::uint32_t t = first + threadIdx.x;
    std::uint32_t at = all_lanes;  // where the token's list has this expert
    for (std::uint32_t j = 0; t < n && j < r.n_used; ++j)
      if (r.chosen[t * r.n_used + j] == e) at = t * r.n_used + j;
    const std::uint32_t with = __ballot_sync(all_lanes, at != all_lanes);
    if (lane == 0) parts[warp] = __popc(with);
    __syncthreads();
    std::uint32_t row = rows_before + found + __popc(with & ((1u << lane) - 1));
    for (std::uint32_t w = 0; w < group_threads / 32; ++w) {
      if (w < warp) row += parts[w];
      found += parts[w];
    }
    __syncthreads();
    if (at == all_lanes) continue;
    r.rows[at] = row;
    r.tokens[row] = t;
  }
}

/// Block (t, y): packets of 16 bytes of token t, one per thread and turn. Bytes: per token n_used rows of y, hidden f32
/// out (and in).
template <class T>
__global__ void __launch_bounds__(combine_threads)
    combine_kernel(const packet<T>* y, expert_routes r, std::uint32_t packets, float* out, bool accumulate,
                   const std::uint32_t* n_tokens) {
  constexpr int size = packet<T>::size;
  let_next_start();
  wait_for_previous();
  const std::uint32_t t = blockIdx.x;
  if (t == 0 && blockIdx.y == 0)
    for (std::uint32_t e = threadIdx.x; e < r.n_experts; e += combine_threads) r.counts[e] = 0;
  if (t >= *n_tokens) return;
  out += std::uint64_t{t} * packets * size;
  for (std::uint32_t i = blockIdx.y * combine_threads + threadIdx.x; i < packets; i += gridDim.y * combine_threads) {
    float sums[size] = {};
    for (std::uint32_t j = 0; j < r.n_used; ++j) {
      const packet<T> x = y[std::uint64_t{r.rows[t * r.n_used + j]} * packets + i];
      const float share = r.shares[t * r.n_used + j];
#pragma unroll
      for (int k = 0; k < size; ++k) sums[k] = __fadd_rn(sums[k], __fmul_rn(share, element<T>::get(x.v[k])));
    }
#pragma unroll
    for (int k = 0; k < size; k += 4) {
      float4* const to = reinterpret_cast<float4*>(out + i * size + k);
      float4 sum{sums[k], sums[k + 1], sums[k + 2], sums[k + 3]};
      if (accumulate) {
        const float4 before = *to;
        sum = {__fadd_rn(before.x, sum.x), __fadd_rn(before.y, sum.y), __fadd_rn(before.z, sum.z),
               __fadd_rn(before.w, sum.w)};
      }
      *to = sum;
    }
  }
}

constexpr std::uint64_t padded(std::uint64_t bytes) { return (bytes + 15) / 16 * 16; }
constexpr std::uint32_t smallest_tile = 8;

/// use(bytes) for each array of the routes, in order.
template <class Use>
void for_arrays(std::uint32_t n_experts, std::uint32_t n_used, std::uint32_t max_tokens, Use&& use) {
  const std::uint64_t word = sizeof(std::uint32_t), rows = std::uint64_t{max_tokens} * n_used;
  use(n_experts * word);
  use(word);
  use(word);
  use(expert_tiles(n_experts, n_used, max_tokens, smallest_tile) * sizeof(expert_tile));
  for (int i = 0; i < 4; ++i) use(rows * word);
}

}  // namespace

std::uint64_t expert_routes_bytes(std::uint32_t n_experts, std::uint32_t n_used, std::uint32_t max_tokens) {
  std::uint64_t sum = 0;
  for_arrays(n_experts, n_used, max_tokens, [&](std::uint64_t bytes) { sum += padded(bytes); });
  return sum;
}

expert_routes view_expert_routes(void* memory, std::uint32_t n_experts, std::uint32_t n_used,
                                 std::uint32_t max_tokens) {
  std::byte* next = static_cast<std::byte*>(memory);
  std::byte* arrays[8];
  int i = 0;
  for_arrays(n_experts, n_used, max_tokens, [&](std::uint64_t bytes) {
    arrays[i++] = next;
    next += padded(bytes);
  });
  const auto words = [&](int k) { return reinterpret_cast<std::uint32_t*>(arrays[k]); };
  return {n_experts, n_used,
          words(0),  words(1),
          words(2),  reinterpret_cast<expert_tile*>(arrays[3]),
          words(4),  words(5),
          words(6),  reinterpret_cast<float*>(arrays[7])};
}

std::uint32_t expert_tile_rows(dtype type, std::uint32_t n_experts, std::uint32_t n_used, std::uint32_t max_tokens) {
  if (max_tokens <= 8) return 8;
  if (type == dtype::f32) return 64;
  const std::uint64_t each = std::uint64_t{max_tokens} * n_used / n_experts;
  return each <= 8 ? 8 : each <= 16 ? 16 : each <= 32 ? 32 : each <= 96 ? 64 : 128;
}

std::uint32_t expert_tiles(std::uint32_t n_experts, std::uint32_t n_used, std::uint32_t max_tokens,
                           std::uint32_t tile_rows) {
  const std::uint64_t rows = std::uint64_t{max_tokens} * n_used;
  const std::uint64_t begun =
      rows < n_experts ? rows : n_experts;  // experts with rows: each has a tile that is not full
  return static_cast<std::uint32_t>(max_tokens <= tile_rows ? begun : rows / tile_rows + begun);
}

cudaError_t route_experts(const float* logits, bool renormalized, const expert_routes& r, std::uint32_t tile_rows,
                          const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t stream) {
  if (max_tokens == 0) return cudaSuccess;
  if (r.n_experts == 0 || r.n_experts > 1024 || r.n_used == 0 || r.n_used > r.n_experts || tile_rows < smallest_tile)
    return cudaErrorInvalidValue;
  const auto route = [&](auto kernel) {
    return launch_dependent(kernel, (max_tokens + route_warps - 1) / route_warps, 32 * route_warps, 0, stream, logits,
                            renormalized, r, n_tokens);
  };
  const cudaError_t code = r.n_experts <= 32    ? route(route_kernel<1>)
                           : r.n_experts <= 128 ? route(route_kernel<4>)
                                                : route(route_kernel<32>);
  if (code != cudaSuccess) return code;
  return launch_dependent(group_kernel, r.n_experts, group_threads, 0, stream, r, tile_rows, n_tokens);
}

cudaError_t combine_experts(const void* y, dtype type, const expert_routes& r, std::uint32_t hidden, float* out,
                            bool accumulate, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                            cudaStream_t stream) {
  if (max_tokens == 0) return cudaSuccess;
  if (hidden == 0 || hidden % 8 != 0) return cudaErrorInvalidValue;
  return with_element(type, [&](auto x) {
    using T = decltype(x);
    const std::uint32_t packets = hidden / packet<T>::size, blocks = (packets + combine_threads - 1) / combine_threads;
    return launch_dependent(combine_kernel<T>, dim3(max_tokens, blocks), combine_threads, 0, stream,
                            static_cast<const packet<T>*>(y), r, packets, out, accumulate, n_tokens);
  });
}

}  // namespace troupe::kernels::gpu
