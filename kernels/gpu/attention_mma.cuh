#pragma once
#include "kernels/gpu/async_copy.cuh"
#include "kernels/gpu/attention_parts.cuh"

/// Attention by tensor cores: one kernel for decode and prefill rows, blocks of four warps that loop over the items.
///
/// What a row's result is made of is the same everywhere: per KV tile of 64 positions the scores (a chain of m16n8k16
/// over head_dim), one softmax step by `soften`, and P V (a chain over the tile's four 16-position groups). Two ways to
/// spread this over the warps, which differ in who computes an element and in nothing else:
///   many rows  each warp has 16 (or 32) of the block's query rows and goes over the whole tile alone
///   few rows   (up to 16: decode) the warps share one 16-row tile: each computes the scores of 16 positions, they
///              exchange them through shared memory, all soften them, and each adds a quarter of the values' columns
/// KV tiles come by cp.async through a ring of stages. Rows of K and V that no row of the item sees are zeros there, so
/// that nothing that lies in unused memory reaches a product.
namespace troupe::kernels::gpu {

/// Sizes in shared memory: queries (or a few queries and the exchanged scores), then the stages.
template <bool E4m3, int HeadDim>
struct attention_tile_sizes {
  static constexpr int q_chunks = HeadDim / 8;                   ///< of 16 bytes in a query row
  static constexpr int kv_chunks = HeadDim / (E4m3 ? 16 : 8);    ///< and in a row of K or V
  static constexpr int m_tiles = attention_m_tiles(HeadDim);
  static constexpr int block_rows = attention_block_rows(HeadDim);
  static constexpr int exchange_stride = attention_kv_tile + 4;  ///< floats; rows 4 banks apart
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
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const std::uint32_t j = threadIdx.x + i * attention_threads;
      const std::uint32_t row = j / sizes::kv_chunks, chunk = j % sizes::kv_chunks, position = base + row;
      const std::uint32_t page = page_of(position);
      const std::size_t offset =
          std::size_t{page} * page_stride_ + ((position % page_tokens) * sizes::kv_chunks + chunk) * 16;
      const bool wanted = position >= oldest_ && position <= newest_;
      const std::uint32_t to = stage + swizzled<sizes::kv_chunks>(row, chunk);
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

/// s[m][0], s[m][1] += Q K^T for the 16 positions from 16 * pair of the tile and columns 16 * step (e4m3: 32) of head_dim.
/// q(m, step, fragment) gives A fragments.
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

/// Row half h (g or g + 8) of 16 columns' fragments to the columns' places in a row of f32 or, multiplied with `factor`,
/// of T.
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

/// The query rows [first_row, first_row + n_rows) of an item that a block computes together, and the ring of KV tiles.
template <class T, bool E4m3, int HeadDim>
struct attention_block {
  using sizes = attention_tile_sizes<E4m3, HeadDim>;
  static constexpr int steps = HeadDim / 16;

  const attention_args& a;
  const attention_scratch& scratch;
  const attention_work& w;
  std::uint32_t first_row, n_rows;
  unsigned char* shared;
  int n_stages;

  __device__ std::uint32_t token_of(std::uint32_t row) const { return (first_row + row) / w.group; }
  __device__ std::uint32_t head_of(std::uint32_t row) const {
    return w.kv_head * w.group + (first_row + row) % w.group;
  }
  __device__ unsigned char* stage(int i) const { return shared + sizes::q_bytes + i * sizes::stage_bytes; }

  /// Rows that do not exist see what the last token sees; they are written nowhere.
  __device__ row_pair rows_from(std::uint32_t row) const {
    row_pair rows;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::uint32_t r = row + 8 * h;
      rows.position[h] = r < n_rows ? w.item.position + token_of(r) : w.newest;
      rows.oldest[h] = oldest_seen(rows.position[h], a.shape.window);
    }
    rows.start_segment();
    return rows;
  }

  /// Queries into shared memory, `room` rows of them, zeros past n_rows.
  __device__ void store_queries(std::uint32_t room) const {
    const T* q = static_cast<const T*>(a.q);
    for (std::uint32_t i = threadIdx.x; i < room * steps; i += attention_threads) {
      const std::uint32_t row = i / steps, step = i % steps;
      uint4 low{0, 0, 0, 0}, high{0, 0, 0, 0};
      if (row < n_rows) {
        const auto* from = reinterpret_cast<const uint4*>(q + std::size_t{w.item.token + token_of(row)} * a.ld_q +
                                                          head_of(row) * HeadDim + step * 16);
        low = from[0];
        high = from[1];
      }
      if constexpr (E4m3) {
        const uint4 first{low.x, low.z, high.x, high.z}, second{low.y, low.w, high.y, high.w};
        low = first;
        high = second;
      }
      *reinterpret_cast<uint4*>(shared + swizzled<sizes::q_chunks>(row, 2 * step)) = low;
      *reinterpret_cast<uint4*>(shared + swizzled<sizes::q_chunks>(row, 2 * step + 1)) = high;
    }
  }
  /// A lane's place for A fragments of the 16 query rows from `row`: load_matrices(.., at(0, 2 * step)).
  __device__ swizzled_lane<sizes::q_chunks> query_lane(std::uint32_t row) const {
    const std::uint32_t lane = threadIdx.x % 32;
    return {shared_address(shared), row + lane % 16, lane / 16};
  }

  /// Whether a row must not see a position of the tile.
  __device__ bool is_masked(std::uint32_t base) const {
    const std::uint32_t first = w.item.position + token_of(0), last = w.item.position + token_of(n_rows - 1);
    return base + attention_kv_tile - 1 > first || base < oldest_seen(last, a.shape.window);
  }

  /// Calls compute(tile, stage) for all tiles in order, each between barriers.
  template <class Compute>
  __device__ void for_tiles(kv_reader<E4m3, HeadDim>& reader, const Compute& compute) const {
    const auto address = [this](int i) { return shared_address(stage(i)); };
    std::uint32_t next = w.first_tile;
    int to = 0, from = 0;
    const auto load = [&] {
      if (next < w.last_tile) reader.load(next, address(to));
      commit_copies();
      ++next;
      to = to + 1 == n_stages ? 0 : to + 1;
    };
    for (int i = 0; i + 1 < n_stages; ++i) load();
    for (std::uint32_t tile = w.first_tile; tile < w.last_tile; ++tile) {
      if (n_stages == 1) {
        __syncthreads();
        load();
      }
      switch (n_stages) {
        case 1:
        case 2: wait_copies<0>(); break;
        case 3: wait_copies<1>(); break;
        default: wait_copies<2>();
      }
      __syncthreads();  // the tile is there for all, and all are done with the tile before it
      if (n_stages > 1) load();
      compute(tile, stage(from));
      from = from + 1 == n_stages ? 0 : from + 1;
    }
    wait_copies<0>();
  }

  /// The last tile of its segment that the item computes.
  __device__ bool ends_segment(std::uint32_t tile) const {
    return (tile + 1) % (attention_segment / attention_kv_tile) == 0 || tile + 1 == w.last_tile;
  }

  __device__ T* result_row(std::uint32_t row) const {
    return static_cast<T*>(a.out) +
           (std::size_t{w.item.token + token_of(row)} * a.shape.n_heads + head_of(row)) * HeadDim;
  }
};

/// Up to 16 rows; the warps share them.
template <class T, bool E4m3, int HeadDim>
__device__ void attend_few(const attention_block<T, E4m3, HeadDim>& b) {
  using sizes = attention_tile_sizes<E4m3, HeadDim>;
  constexpr int steps = HeadDim / 16, n_columns = (steps + 3) / 4;  // column group warp + 4 i is this warp's i-th
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const auto has = [warp](int i) { return steps % 4 == 0 || warp + 4 * i < steps; };
  float* exchange = reinterpret_cast<float*>(b.shared + sizes::few_q_bytes);
  const score_rule rule(b.a);
  kv_reader<E4m3, HeadDim> reader(b.a, b.w);

  b.store_queries(attention_few_rows);
  __syncthreads();
  std::uint32_t q[steps][4];
#pragma unroll
  for (int i = 0; i < steps; ++i) load_matrices(q[i], b.query_lane(0).at(0, 2 * i));
  const auto query = [&q](int, int step) -> const std::uint32_t(&)[4] { return q[step]; };

  row_pair rows = b.rows_from(g);
  float values[n_columns][1][2][4] = {}, totals[n_columns][2][4] = {};
  row_total total[2] = {{-INFINITY, 0.0f}, {-INFINITY, 0.0f}};

  b.for_tiles(reader, [&](std::uint32_t tile, const unsigned char* stage) {
    const std::uint32_t base = tile * attention_kv_tile, keys = shared_address(stage);
    const auto k = key_lane<E4m3, HeadDim>(keys + warp * 16 * sizes::kv_chunks * 16);
    float mine[1][2][4] = {};
#pragma unroll
    for (int i = 0; i < steps; i += E4m3 ? 2 : 1) add_scores<T, E4m3, HeadDim, 1>(mine, k, 0, i, query);
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        *reinterpret_cast<float2*>(exchange + (g + 8 * h) * sizes::exchange_stride + warp * 16 + n * 8 + 2 * t) =
            float2{mine[0][n][2 * h], mine[0][n][2 * h + 1]};
    __syncthreads();
    float s[8][4], correction[2];
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 x =
            *reinterpret_cast<const float2*>(exchange + (g + 8 * h) * sizes::exchange_stride + 8 * j + 2 * t);
        s[j][2 * h] = x.x;
        s[j][2 * h + 1] = x.y;
      }
    const float* k_scale = reinterpret_cast<const float*>(stage + 2 * sizes::kv_bytes);
    soften<E4m3>(s, rows, correction, rule, base, b.is_masked(base), k_scale, k_scale + attention_kv_tile);
    const auto v = value_lane<E4m3, HeadDim>(keys + sizes::kv_bytes);
#pragma unroll
    for (int i = 0; i < n_columns; ++i)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) values[i][0][n][e] *= correction[e / 2];
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      std::uint32_t p[1][4];
      probabilities<T>(p[0], s, step);
#pragma unroll
      for (int i = 0; i < n_columns; ++i)
        if (has(i)) add_values<T, E4m3, HeadDim, 1>(values[i], v, warp + 4 * i, step, p);
    }
    if (!b.ends_segment(tile)) return;

    const std::uint32_t segment = base / attention_segment;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float sum = row_sum(rows.sum[h]);
      if (b.w.item.n_parts == 1) {
        const fold_weights f = fold(total[h], rows.top[h], sum);
#pragma unroll
        for (int i = 0; i < n_columns; ++i)
#pragma unroll
          for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; ++e)
              totals[i][n][e] = fold_value(totals[i][n][e], values[i][0][n][e], f);
      } else if (g + 8 * h < b.n_rows) {
        const std::size_t index = partial_index(b.a, b.scratch, b.w, segment, b.first_row + g + 8 * h);
        if (warp == 0 && t == 0) b.scratch.sums[index] = float2{rows.top[h], sum};
#pragma unroll
        for (int i = 0; i < n_columns; ++i)
          if (has(i)) store_partial<E4m3>(b.scratch.values + index * HeadDim, warp + 4 * i, values[i][0], h);
      }
    }
    rows.start_segment();
#pragma unroll
    for (int i = 0; i < n_columns; ++i)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) values[i][0][n][e] = 0.0f;
  });

  if (b.w.item.n_parts > 1) return;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const std::uint32_t row = g + 8 * h;
    if (row >= b.n_rows) continue;
    const float f = final_weight(total[h], b.a.sinks, b.head_of(row), value_unit<E4m3>);
#pragma unroll
    for (int i = 0; i < n_columns; ++i)
      if (has(i)) store_result<T, E4m3>(b.result_row(row), warp + 4 * i, totals[i], h, f);
  }
}

/// A warp's sums over segments: in registers, or in memory of the block where they would not fit.
template <int HeadDim, int MTiles, bool InMemory>
struct many_totals {
  float x[MTiles][HeadDim / 16][2][4];
  row_total row[MTiles][2];

  __device__ explicit many_totals(float4*) {
#pragma unroll
    for (int m = 0; m < MTiles; ++m) {
      row[m][0] = row[m][1] = {-INFINITY, 0.0f};
#pragma unroll
      for (int i = 0; i < HeadDim / 16; ++i)
#pragma unroll
        for (int e = 0; e < 8; ++e) x[m][i][e / 4][e % 4] = 0.0f;
    }
  }
  /// values: the segment's, which become the total's if `last`.
  __device__ void add(float (&values)[MTiles][HeadDim / 16][2][4], const fold_weights (&f)[MTiles][2], bool last) {
#pragma unroll
    for (int m = 0; m < MTiles; ++m)
#pragma unroll
      for (int i = 0; i < HeadDim / 16; ++i)
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          float& total = x[m][i][e / 4][e % 4];
          total = fold_value(total, values[m][i][e / 4][e % 4], f[m][e % 4 / 2]);
          if (last) values[m][i][e / 4][e % 4] = total;
        }
  }
};
template <int HeadDim, int MTiles>
struct many_totals<HeadDim, MTiles, true> {
  float4* memory;  ///< [MTiles * HeadDim / 8][threads] of this block
  bool empty = true;
  row_total row[MTiles][2];

  __device__ explicit many_totals(float4* base)
      : memory(base + blockIdx.x * (MTiles * HeadDim / 8 * attention_threads) + threadIdx.x) {
#pragma unroll
    for (int m = 0; m < MTiles; ++m) row[m][0] = row[m][1] = {-INFINITY, 0.0f};
  }
  __device__ void add(float (&values)[MTiles][HeadDim / 16][2][4], const fold_weights (&f)[MTiles][2], bool last) {
#pragma unroll
    for (int m = 0; m < MTiles; ++m)
#pragma unroll
      for (int i = 0; i < HeadDim / 16; ++i)
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float4* place = memory + ((m * (HeadDim / 16) + i) * 2 + n) * attention_threads;
          float4 total{0, 0, 0, 0};
          if (!empty) total = *place;
          float(&v)[4] = values[m][i][n];
          v[0] = total.x = fold_value(total.x, v[0], f[m][0]);
          v[1] = total.y = fold_value(total.y, v[1], f[m][0]);
          v[2] = total.z = fold_value(total.z, v[2], f[m][1]);
          v[3] = total.w = fold_value(total.w, v[3], f[m][1]);
          if (!last) *place = total;
        }
    empty = false;
  }
};

/// More rows; each warp has its own.
template <class T, bool E4m3, int HeadDim>
__device__ void attend_many(const attention_block<T, E4m3, HeadDim>& b) {
  using sizes = attention_tile_sizes<E4m3, HeadDim>;
  constexpr int steps = HeadDim / 16, m_tiles = sizes::m_tiles;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const std::uint32_t warp_row = threadIdx.x / 32 * 16 * m_tiles;
  const score_rule rule(b.a);
  kv_reader<E4m3, HeadDim> reader(b.a, b.w);
  b.store_queries(sizes::block_rows);

  const auto query_lane = b.query_lane(warp_row);

  row_pair rows[m_tiles];
#pragma unroll
  for (int m = 0; m < m_tiles; ++m) rows[m] = b.rows_from(warp_row + 16 * m + g);
  float values[m_tiles][steps][2][4] = {};
  many_totals<HeadDim, m_tiles, attention_totals_in_memory(HeadDim)> totals(b.scratch.totals);

  b.for_tiles(reader, [&](std::uint32_t tile, const unsigned char* stage) {
    const std::uint32_t base = tile * attention_kv_tile, keys = shared_address(stage);
    const auto k = key_lane<E4m3, HeadDim>(keys);
    const auto v = value_lane<E4m3, HeadDim>(keys + sizes::kv_bytes);
    float s[4][m_tiles][2][4] = {};
#pragma unroll
    for (int i = 0; i < steps; i += E4m3 ? 2 : 1) {
      std::uint32_t q[E4m3 ? 2 : 1][m_tiles][4];
#pragma unroll
      for (int j = 0; j < (E4m3 ? 2 : 1); ++j)
#pragma unroll
        for (int m = 0; m < m_tiles; ++m) load_matrices(q[j][m], query_lane.at(2 * m, 2 * (i + j)));
      const auto query = [&q, i](int m, int step) -> const std::uint32_t(&)[4] { return q[step - i][m]; };
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) add_scores<T, E4m3, HeadDim, m_tiles>(s[pair], k, pair, i, query);
    }
    const float* k_scale = reinterpret_cast<const float*>(stage + 2 * sizes::kv_bytes);
    const bool masked = b.is_masked(base);
    std::uint32_t p[4][m_tiles][4];
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
      float row_scores[8][4], correction[2];
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) row_scores[j][e] = s[j / 2][m][j % 2][e];
      soften<E4m3>(row_scores, rows[m], correction, rule, base, masked, k_scale, k_scale + attention_kv_tile);
#pragma unroll
      for (int step = 0; step < 4; ++step) probabilities<T>(p[step][m], row_scores, step);
      // Multiplying with 1 changes nothing, and once the maximum is found it is always 1.
      if (__any_sync(0xffffffffu, correction[0] != 1.0f || correction[1] != 1.0f)) {
#pragma unroll
        for (int i = 0; i < steps; ++i)
#pragma unroll
          for (int e = 0; e < 8; ++e) values[m][i][e / 4][e % 4] *= correction[e % 4 / 2];
      }
    }
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int i = 0; i < steps; ++i) {
        float c[m_tiles][2][4];
#pragma unroll
        for (int m = 0; m < m_tiles; ++m)
#pragma unroll
          for (int e = 0; e < 8; ++e) c[m][e / 4][e % 4] = values[m][i][e / 4][e % 4];
        add_values<T, E4m3, HeadDim, m_tiles>(c, v, i, step, p[step]);
#pragma unroll
        for (int m = 0; m < m_tiles; ++m)
#pragma unroll
          for (int e = 0; e < 8; ++e) values[m][i][e / 4][e % 4] = c[m][e / 4][e % 4];
      }
    if (!b.ends_segment(tile)) return;

    const bool last = tile + 1 == b.w.last_tile;
    if (b.w.item.n_parts == 1) {
      fold_weights f[m_tiles][2];
#pragma unroll
      for (int m = 0; m < m_tiles; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) f[m][h] = fold(totals.row[m][h], rows[m].top[h], row_sum(rows[m].sum[h]));
      totals.add(values, f, last);
      if (last) return;
    } else {
      const std::uint32_t segment = base / attention_segment;
#pragma unroll
      for (int m = 0; m < m_tiles; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float sum = row_sum(rows[m].sum[h]);
          const std::uint32_t row = warp_row + 16 * m + g + 8 * h;
          if (row >= b.n_rows) continue;
          const std::size_t index = partial_index(b.a, b.scratch, b.w, segment, b.first_row + row);
          if (t == 0) b.scratch.sums[index] = float2{rows[m].top[h], sum};
#pragma unroll
          for (int i = 0; i < steps; ++i)
            store_partial<E4m3>(b.scratch.values + index * HeadDim, i, values[m][i], h);
        }
    }
#pragma unroll
    for (int m = 0; m < m_tiles; ++m) {
      rows[m].start_segment();
#pragma unroll
      for (int i = 0; i < steps; ++i)
#pragma unroll
        for (int e = 0; e < 8; ++e) values[m][i][e / 4][e % 4] = 0.0f;
    }
  });

  if (b.w.item.n_parts > 1) return;
#pragma unroll
  for (int m = 0; m < m_tiles; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::uint32_t row = warp_row + 16 * m + g + 8 * h;
      if (row >= b.n_rows) continue;
      const float f = final_weight(totals.row[m][h], b.a.sinks, b.head_of(row), value_unit<E4m3>);
      T* out = b.result_row(row);
#pragma unroll
      for (int i = 0; i < steps; ++i) store_result<T, E4m3>(out, i, values[m][i], h, f);
    }
}

template <class T, bool E4m3, int HeadDim>
__global__ void __launch_bounds__(attention_threads, attention_tile_sizes<E4m3, HeadDim>::ctas_per_sm)
    attention_mma_kernel(const __grid_constant__ attention_args a, const __grid_constant__ attention_scratch scratch,
                         int n_stages) {
  using sizes = attention_tile_sizes<E4m3, HeadDim>;
  extern __shared__ __align__(128) unsigned char shared[];
  const std::uint32_t n_work = *a.n_items * a.shape.n_kv_heads;
  for (std::uint32_t turn = 0; turn * gridDim.x < n_work; ++turn) {
    const std::uint32_t piece = piece_of_turn(turn);
    if (piece >= n_work) continue;
    const attention_work w = attention_work_of(a, piece);
    for (std::uint32_t row = 0; row < w.n_rows; row += sizes::block_rows) {
      const attention_block<T, E4m3, HeadDim> b{
          a, scratch, w, row, min(w.n_rows - row, static_cast<std::uint32_t>(sizes::block_rows)), shared, n_stages};
      __syncthreads();  // all are done with what lies in shared memory
      if (b.n_rows <= attention_few_rows) attend_few(b);
      else attend_many(b);
    }
    if (w.item.n_parts > 1) finish_part<T>(a, scratch, w, value_unit<E4m3>);
  }
}

template <class T, bool E4m3, int HeadDim>
cudaError_t launch_attention_mma(const attention_args& a, cudaStream_t stream) {
  using sizes = attention_tile_sizes<E4m3, HeadDim>;
  const auto kernel = attention_mma_kernel<T, E4m3, HeadDim>;
  int device = 0, most = 0, per_sm = 0;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  if (const cudaError_t e = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) return e;
  // As many stages as let ctas_per_sm blocks run at once (each takes a kilobyte more than it asks for); at least two,
  // if they fit at all.
  const auto stages_in = [](int bytes) {
    const int n = (bytes - sizes::q_bytes) / sizes::stage_bytes;
    return n > 4 ? 4 : n;
  };
  int n_stages = stages_in((most + 1024) / sizes::ctas_per_sm - 1024);
  if (n_stages < 2) n_stages = stages_in(most) < 2 ? stages_in(most) : 2;
  if (n_stages < 1) return cudaErrorInvalidConfiguration;
  const int bytes = sizes::q_bytes + n_stages * sizes::stage_bytes;
  if (const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return e;
  if (const cudaError_t e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, attention_threads, bytes))
    return e;
  const int limit = attention_max_ctas;
  if (per_sm > limit) per_sm = limit;
  if (per_sm < 1) return cudaErrorInvalidConfiguration;
  const std::uint32_t most_work = max_attention_items(a.shape) * a.shape.n_kv_heads;
  const std::uint32_t blocks = min(a.shape.n_sms * per_sm, most_work);
  kernel<<<blocks, attention_threads, bytes, stream>>>(a, view_attention_scratch(a), n_stages);
  return cudaGetLastError();
}

/// For the translation unit of one pair of types.
template <class T, bool E4m3>
cudaError_t launch_attention_mma(const attention_args& a, cudaStream_t stream) {
  switch (a.shape.head_dim) {
    case 64: return launch_attention_mma<T, E4m3, 64>(a, stream);
    case 96: return launch_attention_mma<T, E4m3, 96>(a, stream);
    case 128: return launch_attention_mma<T, E4m3, 128>(a, stream);
    case 256: return launch_attention_mma<T, E4m3, 256>(a, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace troupe::kernels::gpu
