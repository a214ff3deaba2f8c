#pragma once
#include "kernels/gpu/async_copy.cuh"
#include "kernels/gpu/attention_parts.cuh"

/// The steps of attention by tensor cores that both ways of attention_mma.cuh share: KV tiles into shared memory,
/// scores, softmax, values, results.
namespace troupe::kernels::gpu {

/// Sizes in shared memory: queries (or a few queries and the exchanged scores), then the stages.
template <bool E4m3, int HeadDim>
struct attention_tile_sizes {
  static constexpr int q_chunks = HeadDim / 8;                 ///< of 16 bytes in a query row
  static constexpr int kv_chunks = HeadDim / (E4m3 ? 16 : 8);  ///< and in a row of K or V
  static constexpr int m_tiles = attention_m_tiles(HeadDim);
  static constexpr int block_rows = attention_block_rows(HeadDim);
  static constexpr int exchange_stride = attention_kv_tile + 8;  ///< floats; rows 8 banks apart
  static constexpr int few_q_bytes = attention_few_rows * q_chunks * 16;
  static constexpr int few_bytes = few_q_bytes + attention_few_rows * exchange_stride * 4;
  static constexpr int many_bytes = block_rows * q_chunks * 16;
  static constexpr int q_bytes = few_bytes > many_bytes ? few_bytes : many_bytes;
  static constexpr int kv_bytes = attention_kv_tile * kv_chunks * 16;
  static constexpr int stage_bytes = 2 * kv_bytes + (E4m3 ? 2 * attention_kv_tile * 4 : 0);
  static constexpr int ctas_per_sm = HeadDim > 128 ? 1 : 2;
};

/// Brings KV tiles of one sequence and KV head into shared memory.
template <bool E4m3, int HeadDim>
class kv_reader {
  using sizes = attention_tile_sizes<E4m3, HeadDim>;
  static constexpr std::uint32_t segment_pages = attention_segment / page_tokens;
  static_assert(segment_pages == 32, "a lane holds the number of one page of the segment");

 public:
  __device__ kv_reader(const attention_args& a, const attention_work& w)
      : table_(a.page_table + std::size_t{w.item.slot} * a.table_pages), oldest_(w.oldest), newest_(w.newest) {
    constexpr std::uint32_t page_bytes = page_tokens * sizes::kv_chunks * 16;
    page_stride_ = a.shape.n_kv_heads * page_bytes;
    k_ = static_cast<const char*>(a.kv.k) + w.kv_head * page_bytes;
    v_ = static_cast<const char*>(a.kv.v) + w.kv_head * page_bytes;
    if constexpr (E4m3) {
      scale_stride_ = a.shape.n_kv_heads * page_tokens;
      k_scale_ = a.kv.k_scale + w.kv_head * page_tokens;
      v_scale_ = a.kv.v_scale + w.kv_head * page_tokens;
    }
    segment_ = w.first_tile * attention_kv_tile / attention_segment;
    pages_ = pages_of(segment_);
    next_pages_ = pages_of(segment_ + 1);
  }

  /// Issues the copies of tile `tile` into the stage at `stage`; tiles in ascending order.
  __device__ void load(std::uint32_t tile, std::uint32_t stage) {
    const std::uint32_t base = tile * attention_kv_tile;
    if (base / attention_segment != segment_) {
      ++segment_;
      pages_ = next_pages_;
      next_pages_ = pages_of(segment_ + 1);
    }
    constexpr int n = attention_kv_tile * sizes::kv_chunks / attention_threads;
    static_assert(attention_kv_tile * sizes::kv_chunks % attention_threads == 0);
    // Where a pass of all threads is whole rows, a thread's rows differ by a constant, which keeps registers free.
    constexpr int chunks = sizes::kv_chunks, pass_rows = attention_threads / chunks;
    constexpr bool whole_rows = attention_threads % chunks == 0;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const std::uint32_t j = threadIdx.x + i * attention_threads;
      const std::uint32_t row = whole_rows ? threadIdx.x / chunks + i * pass_rows : j / chunks;
      const std::uint32_t chunk = whole_rows ? threadIdx.x % chunks : j % chunks, position = base + row;
      const std::uint32_t within = (row % page_tokens * chunks + chunk) * 16;  // a tile starts with a page
      const std::size_t offset = std::size_t{page_of(position)} * page_stride_ + within;
      const bool wanted = position >= oldest_ && position <= newest_;
      const std::uint32_t to = stage + swizzled<chunks>(row, chunk);
      copy_16_async(to, k_ + offset, wanted);
      copy_16_async(to + sizes::kv_bytes, v_ + offset, wanted);
    }
    if constexpr (E4m3) {  // 64 threads for the scales of K, 64 for those of V
      const std::uint32_t row = threadIdx.x % attention_kv_tile, position = base + row;
      const std::size_t offset = std::size_t{page_of(position)} * scale_stride_ + position % page_tokens;
      copy_4_async(stage + 2 * sizes::kv_bytes + threadIdx.x * 4,
                   (threadIdx.x < attention_kv_tile ? k_scale_ : v_scale_) + offset,
                   position >= oldest_ && position <= newest_);
    }
  }

 private:
  /// This lane's page of the segment; 0 where no position of it is seen, whatever the table holds there.
  __device__ std::uint32_t pages_of(std::uint32_t segment) const {
    const std::uint32_t page = segment * segment_pages + threadIdx.x % 32;
    const bool seen = page * page_tokens <= newest_ && page * page_tokens + page_tokens > oldest_;
    return seen ? table_[page] : 0;
  }
  __device__ std::uint32_t page_of(std::uint32_t position) const {
    return __shfl_sync(0xffffffffu, pages_, position / page_tokens % segment_pages);
  }

  const std::uint32_t* table_;
  const char* k_;
  const char* v_;
  const float* k_scale_ = nullptr;
  const float* v_scale_ = nullptr;
  std::uint32_t page_stride_, scale_stride_ = 0;  ///< bytes, floats
  std::uint32_t oldest_, newest_, segment_, pages_, next_pages_;
};

/// How a raw score becomes log2 units: capped ones are there already.
struct score_rule {
  float factor, scale_over_cap, cap;
  __device__ explicit score_rule(const attention_args& a)
      : factor(a.soft_cap != 0 ? 1.0f : a.scale * log2_e),
        scale_over_cap(a.soft_cap != 0 ? a.scale / a.soft_cap : 0.0f),
        cap(a.soft_cap * log2_e) {}
  /// cap * tanh(x * scale / cap) in log2 units.
  __device__ float capped(float x) const {
    const float e = exp2_approximate(x * scale_over_cap * (2 * log2_e));
    return cap * fmaf(-2.0f, reciprocal_approximate(e + 1.0f), 1.0f);
  }
};

/// Two rows (g and g + 8) of a 16-row tile in a segment, as one lane has them: `sum` is of the lane's own columns.
struct row_pair {
  std::uint32_t position[2], oldest[2];
  float top[2], sum[2];
  __device__ void start_segment() {
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0.0f;
  }
};

/// e4m3: probabilities are multiplied with the values' scales before they are rounded; in f16 they would be subnormal,
/// so they are kept 2^8 times as large.
template <bool E4m3>
inline constexpr float value_unit = E4m3 ? 1.0f / 256 : 1.0f;

/// The softmax step of one tile: s (C fragments of 16 x 64 raw scores, columns from position `base`) becomes
/// probabilities relative to the new maximum. correction: what older sums and values must be multiplied with.
template <bool E4m3>
__device__ inline void soften(float (&s)[8][4], row_pair& rows, float (&correction)[2], const score_rule& rule,
                              std::uint32_t base, bool masked, const float* k_scale, const float* v_scale) {
  const std::uint32_t t2 = threadIdx.x % 4 * 2;
  if constexpr (E4m3) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 scale = *reinterpret_cast<const float2*>(k_scale + 8 * j + t2);
      s[j][0] *= scale.x;
      s[j][1] *= scale.y;
      s[j][2] *= scale.x;
      s[j][3] *= scale.y;
    }
  }
  if (rule.scale_over_cap != 0) {
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[j][i] = rule.capped(s[j][i]);
  }
  if (masked) {
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t column = base + 8 * j + t2 + i % 2;
        if (column > rows.position[i / 2] || column < rows.oldest[i / 2]) s[j][i] = -INFINITY;
      }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float top = fmaxf(s[0][2 * h], s[0][2 * h + 1]);
#pragma unroll
    for (int j = 1; j < 8; ++j) top = fmaxf(top, fmaxf(s[j][2 * h], s[j][2 * h + 1]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    top = fmaxf(rows.top[h], top * rule.factor);
    const float safe = top == -INFINITY ? 0.0f : top;
    correction[h] = exp2_approximate(rows.top[h] - safe);
    rows.top[h] = top;
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      s[j][2 * h] = exp2_approximate(fmaf(s[j][2 * h], rule.factor, -safe));
      s[j][2 * h + 1] = exp2_approximate(fmaf(s[j][2 * h + 1], rule.factor, -safe));
      sum += s[j][2 * h] + s[j][2 * h + 1];
    }
    rows.sum[h] = fmaf(rows.sum[h], correction[h], sum);
  }
  if constexpr (E4m3) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 v = *reinterpret_cast<const float2*>(v_scale + 8 * j + t2);
      const float2 scale{v.x * (1 / value_unit<true>), v.y * (1 / value_unit<true>)};
      s[j][0] *= scale.x;
      s[j][1] *= scale.y;
      s[j][2] *= scale.x;
      s[j][3] *= scale.y;
    }
  }
}

/// Sum over the four lanes of a row; the same on each.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// A fragments of P for the 16 positions from 16 * step.
template <class T>
__device__ inline void probabilities(std::uint32_t (&p)[4], const float (&s)[8][4], int step) {
  p[0] = pack<T>(s[2 * step][0], s[2 * step][1]);
  p[1] = pack<T>(s[2 * step][2], s[2 * step][3]);
  p[2] = pack<T>(s[2 * step + 1][0], s[2 * step + 1][1]);
  p[3] = pack<T>(s[2 * step + 1][2], s[2 * step + 1][3]);
}

/// A lane's place for ldmatrix in a tile of keys, 16 positions by 32 bytes, and of values, 16 positions by 16 columns.
template <bool E4m3, int HeadDim>
using kv_lane = swizzled_lane<attention_tile_sizes<E4m3, HeadDim>::kv_chunks>;
template <bool E4m3, int HeadDim>
__device__ inline kv_lane<E4m3, HeadDim> key_lane(std::uint32_t tile) {
  const std::uint32_t lane = threadIdx.x % 32;
  return {tile, lane % 8 + lane / 16 * 8, lane / 8 % 2};
}
template <bool E4m3, int HeadDim>
__device__ inline kv_lane<E4m3, HeadDim> value_lane(std::uint32_t tile) {
  const std::uint32_t lane = threadIdx.x % 32;
  return {tile, lane % 16, E4m3 ? 0 : lane / 16};
}

/// s[m][0], s[m][1] += Q K^T for the 16 positions from 16 * pair of the tile and columns 16 * step (e4m3: 32) of
/// head_dim. q(m, step) gives A fragments.
///
/// With e4m3 a lane gets four consecutive codes 4t .. 4t+3 per 16 columns, which stand for the fragment's k = 2t, 2t+1,
/// 2t+8, 2t+9; `store_queries` orders the queries' columns alike.
template <class T, bool E4m3, int HeadDim, int MTiles, class Queries>
__device__ inline void add_scores(float (&s)[MTiles][2][4], const kv_lane<E4m3, HeadDim>& k, int pair, int step,
                                  const Queries& q) {
  std::uint32_t b[4];
  if constexpr (!E4m3) {
    load_matrices(b, k.at(2 * pair, 2 * step));
#pragma unroll
    for (int m = 0; m < MTiles; ++m) {
      mma<T>(s[m][0], q(m, step), b[0], b[1]);
      mma<T>(s[m][1], q(m, step), b[2], b[3]);
    }
  } else {  // two steps
    load_matrices(b, k.at(2 * pair, step));
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const std::uint32_t codes = b[2 * n + i];
        const std::uint32_t b0 = from_e4m3<T>(codes & 0xffff), b1 = from_e4m3<T>(codes >> 16);
#pragma unroll
        for (int m = 0; m < MTiles; ++m) mma<T>(s[m][n], q(m, step + i), b0, b1);
      }
  }
}

/// values[m] += P V for 16 columns of head_dim and the 16 positions from 16 * step of the tile.
///
/// C fragments of columns 16 * columns + ...: f16 and bf16 [0] columns 0..7, [1] columns 8..15; e4m3 [0] the even, [1]
/// the odd ones, since a lane's 16 bits are two columns.
template <class T, bool E4m3, int HeadDim, int MTiles>
__device__ inline void add_values(float (&values)[MTiles][2][4], const kv_lane<E4m3, HeadDim>& v, int columns, int step,
                                  const std::uint32_t (&p)[MTiles][4]) {
  std::uint32_t b[2][2];
  if constexpr (!E4m3) {
    std::uint32_t r[4];
    load_matrices_transposed(r, v.at(2 * step, 2 * columns));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
  } else {
    std::uint32_t r[2];
    load_matrices_transposed(r, v.at(2 * step, columns));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::uint32_t sorted = __byte_perm(r[i], 0, 0x3120);  // even columns of both positions, then the odd ones
      b[0][i] = from_e4m3<T>(sorted & 0xffff);
      b[1][i] = from_e4m3<T>(sorted >> 16);
    }
  }
#pragma unroll
  for (int m = 0; m < MTiles; ++m) {
    mma<T>(values[m][0], p[m], b[0][0], b[0][1]);
    mma<T>(values[m][1], p[m], b[1][0], b[1][1]);
  }
}

/// Row half h (g or g + 8) of 16 columns' fragments to the columns' places in a row of f32 or, multiplied with
/// `factor`, of T.
template <bool E4m3>
__device__ inline void store_partial(float* row, int columns, const float (&c)[2][4], int h) {
  const std::uint32_t t = threadIdx.x % 4;
  if constexpr (E4m3) {
    *reinterpret_cast<float4*>(row + 16 * columns + 4 * t) =
        float4{c[0][2 * h], c[1][2 * h], c[0][2 * h + 1], c[1][2 * h + 1]};
  } else {
    *reinterpret_cast<float2*>(row + 16 * columns + 2 * t) = float2{c[0][2 * h], c[0][2 * h + 1]};
    *reinterpret_cast<float2*>(row + 16 * columns + 8 + 2 * t) = float2{c[1][2 * h], c[1][2 * h + 1]};
  }
}
template <class T, bool E4m3>
__device__ inline void store_result(T* row, int columns, const float (&c)[2][4], int h, float factor) {
  const std::uint32_t t = threadIdx.x % 4;
  if constexpr (E4m3) {
    *reinterpret_cast<uint2*>(row + 16 * columns + 4 * t) =
        uint2{pack<T>(c[0][2 * h] * factor, c[1][2 * h] * factor),
              pack<T>(c[0][2 * h + 1] * factor, c[1][2 * h + 1] * factor)};
  } else {
    *reinterpret_cast<std::uint32_t*>(row + 16 * columns + 2 * t) =
        pack<T>(c[0][2 * h] * factor, c[0][2 * h + 1] * factor);
    *reinterpret_cast<std::uint32_t*>(row + 16 * columns + 8 + 2 * t) =
        pack<T>(c[1][2 * h] * factor, c[1][2 * h + 1] * factor);
  }
}

}  // namespace troupe::kernels::gpu
