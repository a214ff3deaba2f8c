#include "kernels/gpu/exchange.cuh"

#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/norm_row.cuh"

namespace troupe::kernels::gpu {
namespace {

/// All of a row is on its way before anything is waited for.
template <class T>
__global__ void __launch_bounds__(norm_most_threads)
    exchange_norm_kernel(const __grid_constant__ exchange_norm_args a, const std::uint32_t* n_tokens) {
  const std::uint32_t n = a.norm.hidden / 4, t = blockIdx.x;
  const std::uint32_t rank = a.call.memory.rank, size = a.call.memory.size;
  const auto* weight = reinterpret_cast<const float4*>(a.norm.weight);
  const auto* bias = reinterpret_cast<const float4*>(a.norm.bias);
  float4 kept_weight[norm_kept], part[norm_kept], x[norm_kept];
  let_next_start();
  for_kept(n, [&](int k, std::uint32_t i) { kept_weight[k] = weight[i]; });
  wait_for_previous();
  if (t >= *n_tokens) return;
  const exchange_end end(a.call);
  float4* const row = reinterpret_cast<float4*>(a.norm.h) + std::uint64_t{t} * n;
  for_kept(n, [&](int k, std::uint32_t i) {
    part[k] = reinterpret_cast<const float4*>(a.part)[std::uint64_t{t} * n + i];
    x[k] = a.add ? row[i] : float4{0, 0, 0, 0};
  });
  for_kept(n, [&](int k, std::uint32_t i) {
    const std::uint32_t at = 4 * (t * n + i);
    for (std::uint32_t q = 0; q < size; ++q) {
      if (q == rank) continue;
      end.send(q, at, part[k].x, part[k].y);
      end.send(q, at + 2, part[k].z, part[k].w);
    }
  });
  for_kept(n, [&](int k, std::uint32_t i) {
    const std::uint32_t at = 4 * (t * n + i);
    float4 sum{};
    for (std::uint32_t q = 0; q < size; ++q) {
      float4 p = part[k];
      if (q != rank) {
        const float2 low = end.receive2(q, at), high = end.receive2(q, at + 2);
        p = {low.x, low.y, high.x, high.y};
      }
      sum = q == 0 ? p : add(sum, p);
    }
    x[k] = a.add ? add(x[k], sum) : sum;
    if (bias != nullptr) x[k] = add(x[k], bias[i]);
    row[i] = x[k];
  });
  norm_row<T, false>(
      a.norm, nullptr, t, [&](auto&& f) { for_kept(n, [&](int k, std::uint32_t i) { f(x[k], i, kept_weight[k]); }); },
      [](std::uint32_t, float4) {});
}

}  // namespace

bool can_exchange_norm(const exchange_memory& m, std::uint32_t hidden, std::uint32_t max_tokens) {
  return m.size > 1 && m.size <= exchange_memory::most_ranks && hidden > 0 && hidden % 4 == 0 && m.capacity % 4 == 0 &&
         norm_in_registers(hidden) && std::uint64_t{max_tokens} * hidden <= m.capacity;
}

cudaError_t exchange_norm(const exchange_norm_args& a, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                          cudaStream_t stream) {
  if (max_tokens == 0) return cudaSuccess;
  const rms_norm_args& n = a.norm;
  if (!can_exchange_norm(a.call.memory, n.hidden, max_tokens) || n.gather != nullptr) return cudaErrorInvalidValue;
  return with_element(n.type, [&](auto x) {
    return launch_dependent(exchange_norm_kernel<decltype(x)>, max_tokens, norm_threads(n.hidden), 0, stream, a,
                            n_tokens);
  });
}

}  // namespace troupe::kernels::gpu
