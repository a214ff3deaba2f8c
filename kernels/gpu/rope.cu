#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"

namespace troupe::kernels::gpu {
namespace {

__global__ void rope_table_kernel(const std::uint32_t* positions, const double* frequencies, std::uint32_t half,
                                  double factor, float2* table, const std::uint32_t* n_tokens) {
  const std::uint64_t n = std::uint64_t{*n_tokens} * half;
  for (std::uint64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    double sine, cosine;
    sincos(static_cast<double>(positions[i / half]) * frequencies[i % half], &sine, &cosine);
    table[i] = {static_cast<float>(cosine * factor), static_cast<float>(sine * factor)};
  }
}

constexpr int head_warps = 8;
constexpr int max_head_dim = 512;

/// Two neighbouring elements of the compute type or of the cache, read and written at once.
template <class T>
struct alignas(2 * sizeof(T)) two {
  T v[2];
};

/// Rounds a head in `x` (f32, shared by the warp) into the pool from element `first`; `scale` is the position's (e4m3
/// only).
template <kv_type type>
__device__ void store_head(const float* x, std::uint32_t head_dim, void* pool, std::uint64_t first, float* scale) {
  const std::uint32_t lane = threadIdx.x % 32;
  if constexpr (type == kv_type::e4m3) {
    float amax = 0;
    for (std::uint32_t e = lane; e < head_dim; e += 32) amax = fmaxf(amax, fabsf(x[e]));
    amax = warp_max(amax);
    const float s = amax == 0.0f ? 1.0f : amax / 448.0f;
    if (lane == 0) *scale = s;
    __nv_fp8_storage_t* out = static_cast<__nv_fp8_storage_t*>(pool) + first;
    for (std::uint32_t e = 2 * lane; e < head_dim; e += 64) {
      const two<__nv_fp8_storage_t> codes = {{__nv_cvt_float_to_fp8(x[e] / s, __NV_SATFINITE, __NV_E4M3),
                                              __nv_cvt_float_to_fp8(x[e + 1] / s, __NV_SATFINITE, __NV_E4M3)}};
      *reinterpret_cast<two<__nv_fp8_storage_t>*>(out + e) = codes;
    }
  } else {
    using T = std::conditional_t<type == kv_type::f32, float,
                                 std::conditional_t<type == kv_type::f16, __half, __nv_bfloat16>>;
    T* out = static_cast<T*>(pool) + first;
    for (std::uint32_t e = 2 * lane; e < head_dim; e += 64)
      *reinterpret_cast<two<T>*>(out + e) = {{element<T>::put(x[e]), element<T>::put(x[e + 1])}};
  }
}

/// Element e of the head after rotation; table: cosine, sine of each pair.
__device__ float rotated(const float* x, const float2* table, std::uint32_t e, std::uint32_t rope_dim,
                         bool interleaved) {
  if (e >= rope_dim) return x[e];
  const std::uint32_t half = rope_dim / 2;
  const bool second = interleaved ? (e & 1u) != 0 : e >= half;
  const float2 r = table[interleaved ? e / 2 : second ? e - half : e];
  const std::uint32_t other = interleaved ? e ^ 1u : second ? e - half : e + half;
  return second ? fmaf(x[e], r.x, x[other] * r.y) : fmaf(x[e], r.x, -(x[other] * r.y));
}

/// Block (x, y): heads 8 y to 8 y + 7 (queries, then keys, then values) of token x, a warp each. Two elements per lane
/// and turn; a head passes through shared memory because pairs lie far apart. Bytes: each once in, once out.
template <class T, kv_type type>
__global__ void __launch_bounds__(32 * head_warps) rope_and_store_kernel(rope_store_args a, const std::uint32_t* n) {
  __shared__ float heads[head_warps][2][max_head_dim];
  let_next_start();
  wait_for_previous();
  const std::uint32_t t = blockIdx.x;
  if (t >= *n) return;
  const std::uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const std::uint32_t head = blockIdx.y * head_warps + warp, n_kv = a.kv.n_kv_heads, dim = a.kv.head_dim;
  if (head >= a.n_heads + 2 * n_kv) return;  // whole warps; below only warps wait for each other
  const bool is_query = head < a.n_heads, is_value = head >= a.n_heads + n_kv;
  T* row = static_cast<T*>(a.qkv) + (std::uint64_t{t} * (a.n_heads + 2 * n_kv) + head) * dim;

  float* x = heads[warp][0];
  float squares = 0;
  for (std::uint32_t e = 2 * lane; e < dim; e += 64) {
    const two<T> v = *reinterpret_cast<const two<T>*>(row + e);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float f = element<T>::get(v.v[j]);
      if (a.bias != nullptr) f += a.bias[head * dim + e + j];
      squares = fmaf(f, f, squares);
      x[e + j] = f;
    }
  }
  const float* weight = is_query ? a.q_norm : is_value ? nullptr : a.k_norm;
  if (weight != nullptr) {
    const float inverse = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(dim) + a.eps);
    for (std::uint32_t e = 2 * lane; e < dim; e += 64)
      for (int j = 0; j < 2; ++j) x[e + j] *= inverse * weight[e + j];
  }
  __syncwarp();

  float* y = heads[warp][1];
  if (is_value) {
    y = x;
  } else {
    const float2* table = reinterpret_cast<const float2*>(a.rope) + std::uint64_t{t} * (a.rope_dim / 2);
    for (std::uint32_t e = lane; e < dim; e += 32) y[e] = rotated(x, table, e, a.rope_dim, a.interleaved);
    __syncwarp();
  }
  if (is_query) {
    for (std::uint32_t e = 2 * lane; e < dim; e += 64)
      *reinterpret_cast<two<T>*>(row + e) = {{element<T>::put(y[e]), element<T>::put(y[e + 1])}};
    return;
  }
  const std::uint32_t position = a.positions[t];
  const std::uint32_t page = a.page_table[std::uint64_t{a.slots[t]} * a.table_pages + position / page_tokens];
  const std::uint32_t kv_head = head - a.n_heads - (is_value ? n_kv : 0);
  const std::uint64_t place = (std::uint64_t{page} * n_kv + kv_head) * page_tokens + position % page_tokens;
  float* scales = is_value ? a.kv.v_scale : a.kv.k_scale;
  store_head<type>(y, dim, is_value ? a.kv.v : a.kv.k, place * dim, type == kv_type::e4m3 ? scales + place : nullptr);
}

}  // namespace

cudaError_t rope_table(const std::uint32_t* positions, const double* frequencies, std::uint32_t dim, double factor,
                       float* table, const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t stream) {
  if (max_tokens == 0 || dim < 2) return cudaSuccess;
  const std::uint64_t n = std::uint64_t{max_tokens} * (dim / 2);
  const std::uint32_t blocks = n < 128 * 1024 ? static_cast<std::uint32_t>((n + 127) / 128) : 1024;
  return launch_kernel(rope_table_kernel, blocks, 128, 0, stream, positions, frequencies, dim / 2, factor,
                       reinterpret_cast<float2*>(table), n_tokens);
}

cudaError_t rope_and_store(const rope_store_args& a, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                           cudaStream_t stream) {
  if (max_tokens == 0) return cudaSuccess;
  if (a.kv.head_dim % 2 != 0 || a.kv.head_dim > max_head_dim || a.rope_dim % 2 != 0 || a.rope_dim > a.kv.head_dim)
    return cudaErrorInvalidValue;
  const dim3 grid(max_tokens, (a.n_heads + 2 * a.kv.n_kv_heads + head_warps - 1) / head_warps);
  return with_element(a.type, [&](auto x) {
    using T = decltype(x);
    const auto launch = [&](auto kernel) {
      return launch_dependent(kernel, grid, 32 * head_warps, 0, stream, a, n_tokens);
    };
    switch (a.kv.type) {
      case kv_type::f32:
        return launch(rope_and_store_kernel<T, kv_type::f32>);
      case kv_type::f16:
        return launch(rope_and_store_kernel<T, kv_type::f16>);
      case kv_type::bf16:
        return launch(rope_and_store_kernel<T, kv_type::bf16>);
      case kv_type::e4m3:
        return launch(rope_and_store_kernel<T, kv_type::e4m3>);
    }
    return cudaErrorInvalidValue;
  });
}

}  // namespace troupe::kernels::gpu
