#include "kernels/gpu/gemv_residual.cuh"

namespace troupe::kernels::gpu {
namespace {

using bf16 = __nv_bfloat16;

template <class F>
auto with_depth(gemv_depth depth, F&& f) {
  if (depth == gemv_depth::two) return f.template operator()<2>();
  return depth == gemv_depth::four ? f.template operator()<4>() : f.template operator()<8>();
}

template <class T>
__device__ void store_pair(void* pool, std::uint64_t first, std::uint64_t second, float x, float y) {
  static_cast<T*>(pool)[first] = element<T>::put(x);
  static_cast<T*>(pool)[second] = element<T>::put(y);
}

__device__ void store_pair(kv_type type, void* pool, std::uint64_t first, std::uint64_t second, float x, float y) {
  if (type == kv_type::bf16)
    store_pair<bf16>(pool, first, second, x, y);
  else if (type == kv_type::f16)
    store_pair<__half>(pool, first, second, x, y);
  else
    store_pair<float>(pool, first, second, x, y);
}

/// Warp w: the pair of rows that one rotation takes, pair w % (head_dim / 2) of head w / (head_dim / 2).
template <int depth>
__global__ void __launch_bounds__(32 * gemv_warps)
    qkv_kernel(const __grid_constant__ gemv_qkv_args a, const std::uint32_t* n_tokens) {
  const rope_store_args& r = a.rope;
  const std::uint32_t dim = r.kv.head_dim, half = dim / 2, n_kv = r.kv.n_kv_heads, packets = a.cols / 8;
  const std::uint32_t warp = blockIdx.x * gemv_warps + threadIdx.x / 32, head = warp / half, pair = warp % half;
  const bool exists = head < r.n_heads + 2 * n_kv;
  const std::uint32_t first = r.interleaved ? 2 * pair : pair, second = r.interleaved ? first + 1 : pair + half;
  let_next_start();
  row_stream<depth> w[2];
  if (exists) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      w[s].row =
          static_cast<const uint4*>(a.weight) + (std::uint64_t{head} * dim + (s == 0 ? first : second)) * packets;
      w[s].packets = packets;
      w[s].load(0);
    }
  }
  wait_for_previous();
  if (*n_tokens == 0) return;
  rms_factor rms;
  rms.begin(a.scale);
  // Lane 0 asks early for what it needs in the end.
  const bool is_query = head < r.n_heads, is_value = head >= r.n_heads + n_kv;
  std::uint64_t place = 0;
  float2 turn{1, 0};
  if (exists && threadIdx.x % 32 == 0) {
    const std::uint32_t position = r.positions[0];
    if (!is_value) turn = reinterpret_cast<const float2*>(r.rope)[pair];
    if (!is_query) {
      const std::uint32_t page = r.page_table[std::uint64_t{r.slots[0]} * r.table_pages + position / page_tokens];
      const std::uint32_t kv_head = head - r.n_heads - (is_value ? n_kv : 0);
      place = ((std::uint64_t{page} * n_kv + kv_head) * page_tokens + position % page_tokens) * dim;
    }
  }
  float sum[2][1] = {};
  if (exists) add_rows<bf16>(w, static_cast<const uint4*>(a.x), packets, 1, sum);
  const float factor = rms.factor(a.scale, a.cols);
  float x = factor * warp_sum(sum[0][0]), y = factor * warp_sum(sum[1][0]);
  if (!exists || threadIdx.x % 32 != 0) return;
  if (r.bias != nullptr) {
    x += r.bias[head * dim + first];
    y += r.bias[head * dim + second];
  }
  const float turned_x = fmaf(x, turn.x, -(y * turn.y)), turned_y = fmaf(y, turn.x, x * turn.y);
  if (is_query)
    store_pair<bf16>(r.qkv, std::uint64_t{head} * dim + first, std::uint64_t{head} * dim + second, turned_x, turned_y);
  else if (is_value)
    store_pair(r.kv.type, r.kv.v, place + first, place + second, x, y);
  else
    store_pair(r.kv.type, r.kv.k, place + first, place + second, turned_x, turned_y);
}

}  // namespace

cudaError_t gemv_residual(const gemv_residual_args& a, gemv_depth depth, const std::uint32_t* n_tokens,
                          cudaStream_t stream) {
  return with_depth(depth, [&]<int d>() { return launch_residual<dense_row<d>>(a, {}, n_tokens, stream); });
}

bool can_gemv_residual_in_group(std::uint32_t rows, gemv_depth depth, std::uint32_t n_sms) {
  return with_depth(depth, [&]<int d>() { return residual_fits<dense_row<d>>(rows, n_sms); });
}

bool can_gemv_qkv(const rope_store_args& r) {
  return r.type == dtype::bf16 && r.rope_dim == r.kv.head_dim && r.q_norm == nullptr && r.k_norm == nullptr &&
         r.kv.type != kv_type::e4m3;
}

cudaError_t gemv_qkv(const gemv_qkv_args& a, gemv_depth depth, const std::uint32_t* n_tokens, cudaStream_t stream) {
  if (a.cols % 8 != 0 || !can_gemv_qkv(a.rope) || a.scale.n_squares % 4 != 0) return cudaErrorInvalidValue;
  const std::uint32_t pairs = (a.rope.n_heads + 2 * a.rope.kv.n_kv_heads) * a.rope.kv.head_dim / 2;
  const auto kernel = depth == gemv_depth::two    ? qkv_kernel<2>
                      : depth == gemv_depth::four ? qkv_kernel<4>
                                                  : qkv_kernel<8>;
  return launch_dependent(kernel, gemv_blocks(pairs), 32 * gemv_warps, 0, stream, a, n_tokens);
}

}  // namespace troupe::kernels::gpu
