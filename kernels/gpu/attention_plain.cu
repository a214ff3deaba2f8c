#include "kernels/gpu/attention_parts.cuh"
#include "kernels/gpu/dependent.cuh"

/// Attention in plain f32 arithmetic for what the tensor cores do not take: other head sizes, f32, mixed types. Made to
/// be right and simple: a warp has one query row at a time, and keys and values come through the caches.
namespace troupe::kernels::gpu {
namespace {

constexpr int n_warps = attention_threads / 32;
constexpr std::uint32_t max_head_dim = 256;
constexpr std::uint32_t lane_dims = max_head_dim / 32;  ///< lane, lane + 32, ... of a value row

__device__ inline float number(float x) { return x; }
__device__ inline float number(__half x) { return __half2float(x); }
__device__ inline float number(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float number(__nv_fp8_e4m3 x) { return static_cast<float>(x); }

/// A row's keys and values.
template <class Kv>
struct kv_rows {
  const attention_args& a;
  const std::uint32_t* table;
  std::uint32_t kv_head;

  /// Index of a position among all [page][kv_head][page_tokens].
  __device__ std::size_t index(std::uint32_t position) const {
    return (std::size_t{table[position / page_tokens]} * a.shape.n_kv_heads + kv_head) * page_tokens +
           position % page_tokens;
  }
  __device__ const Kv* key(std::size_t i) const { return static_cast<const Kv*>(a.kv.k) + i * a.shape.head_dim; }
  __device__ const Kv* value(std::size_t i) const { return static_cast<const Kv*>(a.kv.v) + i * a.shape.head_dim; }
  __device__ float key_scale(std::size_t i) const { return sizeof(Kv) == 1 ? a.kv.k_scale[i] : 1.0f; }
  __device__ float value_scale(std::size_t i) const { return sizeof(Kv) == 1 ? a.kv.v_scale[i] : 1.0f; }
};

/// One lane's share of a row's state in a segment: its own positions' sum, its own columns' values.
struct lane_state {
  float top, sum, values[lane_dims];
};

template <class Kv>
__device__ float score(const kv_rows<Kv>& kv, const float* q, std::uint32_t position) {
  const attention_args& a = kv.a;
  const std::size_t i = kv.index(position);
  float dot = 0.0f;
  constexpr std::uint32_t step = 8;  // divides head_dim
  struct alignas(8 * sizeof(Kv) < 16 ? 8 : 16) eight {
    Kv v[step];
  };
  const eight* keys = reinterpret_cast<const eight*>(kv.key(i));
  for (std::uint32_t d = 0; d < a.shape.head_dim; d += step) {
    const eight x = keys[d / step];
#pragma unroll
    for (std::uint32_t j = 0; j < step; ++j) dot = fmaf(q[d + j], number(x.v[j]), dot);
  }
  float s = dot * kv.key_scale(i) * a.scale;
  if (a.soft_cap != 0) s = a.soft_cap * tanhf(s / a.soft_cap);
  return s * log2_e;
}

/// Positions [from, to) of one KV tile, at most 64: lane l has from the tile's start l and l + 32.
template <class Kv>
__device__ void add_tile(const kv_rows<Kv>& kv, const float* q, float* p, std::uint32_t base, std::uint32_t from,
                         std::uint32_t to, lane_state& state) {
  const std::uint32_t lane = threadIdx.x % 32;
  float s[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t position = base + lane + 32 * i;
    s[i] = position >= from && position < to ? score(kv, q, position) : -INFINITY;
  }
  const float top = fmaxf(state.top, warp_max(fmaxf(s[0], s[1])));
  const float safe = top == -INFINITY ? 0.0f : top;
  const float correction = exp2f(state.top - safe);
  const float e0 = exp2f(s[0] - safe), e1 = exp2f(s[1] - safe);
  state.top = top;
  state.sum = fmaf(state.sum, correction, e0 + e1);
  __syncwarp();
  p[lane] = e0;
  p[lane + 32] = e1;
  __syncwarp();
#pragma unroll
  for (std::uint32_t j = 0; j < lane_dims; ++j) state.values[j] *= correction;
  for (std::uint32_t position = from; position < to; ++position) {
    const std::size_t i = kv.index(position);
    const float weight = p[position - base] * kv.value_scale(i);
    const Kv* v = kv.value(i);
#pragma unroll
    for (std::uint32_t j = 0; j < lane_dims; ++j)
      if (lane + 32 * j < kv.a.shape.head_dim)
        state.values[j] = fmaf(weight, number(v[lane + 32 * j]), state.values[j]);
  }
}

/// All of one query row that the item holds.
template <class T, class Kv>
__device__ void attend_row(const attention_args& a, const attention_scratch& scratch, const attention_work& w,
                           std::uint32_t row, float* q, float* p) {
  const std::uint32_t lane = threadIdx.x % 32, head_dim = a.shape.head_dim;
  const std::uint32_t token = row / w.group, head = w.kv_head * w.group + row % w.group;
  const std::uint32_t position = w.item.position + token, oldest = oldest_seen(position, a.shape.window);
  const kv_rows<Kv> kv{a, a.page_table + std::size_t{w.item.slot} * a.table_pages, w.kv_head};
  const T* from = static_cast<const T*>(a.q) + std::size_t{w.item.token + token} * a.ld_q + head * head_dim;
  __syncwarp();
  for (std::uint32_t d = lane; d < head_dim; d += 32) q[d] = number(from[d]);
  __syncwarp();

  row_total total{-INFINITY, 0.0f};
  float totals[lane_dims] = {};
  for (std::uint32_t segment = w.item.first_segment; segment < w.item.last_segment; ++segment) {
    lane_state state{-INFINITY, 0.0f, {}};
    const std::uint32_t begin = max(segment * attention_segment, oldest);
    const std::uint32_t end = min((segment + 1) * attention_segment, position + 1);
    if (begin < end)
      for (std::uint32_t base = begin / attention_kv_tile * attention_kv_tile; base < end; base += attention_kv_tile)
        add_tile(kv, q, p, base, max(begin, base), min(end, base + attention_kv_tile), state);
    const float sum = warp_sum(state.sum);
    if (w.item.n_parts == 1) {
      const fold_weights f = fold(total, state.top, sum);
#pragma unroll
      for (std::uint32_t j = 0; j < lane_dims; ++j) totals[j] = fold_value(totals[j], state.values[j], f);
    } else {
      const std::size_t index = partial_index(a, scratch, w, segment, row);
      if (lane == 0) scratch.sums[index] = float2{state.top, sum};
#pragma unroll
      for (std::uint32_t j = 0; j < lane_dims; ++j)
        if (lane + 32 * j < head_dim) scratch.values[index * head_dim + lane + 32 * j] = state.values[j];
    }
  }
  if (w.item.n_parts > 1) return;
  const float f = final_weight(total, a.sinks, head, 1.0f);
  T* out = static_cast<T*>(a.out) + (std::size_t{w.item.token + token} * a.shape.n_heads + head) * head_dim;
#pragma unroll
  for (std::uint32_t j = 0; j < lane_dims; ++j)
    if (lane + 32 * j < head_dim) out[lane + 32 * j] = element<T>::put(totals[j] * f);
}

template <class T, class Kv>
__global__ void __launch_bounds__(attention_threads)
    attention_plain_kernel(const __grid_constant__ attention_args a,
                           const __grid_constant__ attention_scratch scratch) {
  __shared__ float queries[n_warps][max_head_dim], probabilities[n_warps][attention_kv_tile];
  const std::uint32_t warp = threadIdx.x / 32, n_work = *a.n_items * a.shape.n_kv_heads;
  for (std::uint32_t turn = 0; turn * gridDim.x < n_work; ++turn) {
    const std::uint32_t piece = piece_of_turn(turn);
    if (piece >= n_work) continue;
    const attention_work w = attention_work_of(a, piece);
    for (std::uint32_t row = warp; row < w.n_rows; row += n_warps)
      attend_row<T, Kv>(a, scratch, w, row, queries[warp], probabilities[warp]);
    if (w.item.n_parts > 1) finish_part<T>(a, scratch, w, 1.0f);
  }
}

template <class T, class Kv>
cudaError_t launch(const attention_args& a, cudaStream_t stream) {
  const std::uint32_t blocks = min(a.shape.n_sms * 8, max_attention_items(a.shape) * a.shape.n_kv_heads);
  return launch_kernel(attention_plain_kernel<T, Kv>, blocks, attention_threads, 0, stream, a,
                       view_attention_scratch(a));
}

}  // namespace

cudaError_t attention_plain(const attention_args& a, cudaStream_t stream) {
  return with_element(a.type, [&]<class T>(T) {
    switch (a.kv.type) {
      case kv_type::f32:
        return launch<T, float>(a, stream);
      case kv_type::f16:
        return launch<T, __half>(a, stream);
      case kv_type::bf16:
        return launch<T, __nv_bfloat16>(a, stream);
      case kv_type::e4m3:
        return launch<T, __nv_fp8_e4m3>(a, stream);
    }
    return cudaErrorInvalidValue;
  });
}

}  // namespace troupe::kernels::gpu
