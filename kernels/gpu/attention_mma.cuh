#pragma once
#include "kernels/gpu/attention_tile.cuh"
#include "kernels/gpu/dependent.cuh"

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
        case 2:
          wait_copies<0>();
          break;
        case 3:
          wait_copies<1>();
          break;
        default:
          wait_copies<2>();
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
          for (int i = 0; i < steps; ++i) store_partial<E4m3>(b.scratch.values + index * HeadDim, i, values[m][i], h);
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
  unsigned char* const shared = dynamic_shared<unsigned char, 128>();
  let_next_start();
  wait_for_previous();
  const std::uint32_t n_work = *a.n_items * a.shape.n_kv_heads;
  for (std::uint32_t turn = 0; turn * gridDim.x < n_work; ++turn) {
    const std::uint32_t piece = piece_of_turn(turn);
    if (piece >= n_work) continue;
    const attention_work w = attention_work_of(a, piece);
    for (std::uint32_t row = 0; row < w.n_rows; row += sizes::block_rows) {
      const attention_block<T, E4m3, HeadDim> b{
          a, scratch, w, row, min(w.n_rows - row, static_cast<std::uint32_t>(sizes::block_rows)), shared, n_stages};
      __syncthreads();  // all are done with what lies in shared memory
      if (b.n_rows <= attention_few_rows)
        attend_few(b);
      else
        attend_many(b);
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
  return launch_dependent(kernel, blocks, attention_threads, static_cast<std::size_t>(bytes), stream, a,
                          view_attention_scratch(a), n_stages);
}

/// For the translation unit of one pair of types.
template <class T, bool E4m3>
cudaError_t launch_attention_mma(const attention_args& a, cudaStream_t stream) {
  switch (a.shape.head_dim) {
    case 64:
      return launch_attention_mma<T, E4m3, 64>(a, stream);
    case 96:
      return launch_attention_mma<T, E4m3, 96>(a, stream);
    case 128:
      return launch_attention_mma<T, E4m3, 128>(a, stream);
    case 256:
      return launch_attention_mma<T, E4m3, 256>(a, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace troupe::kernels::gpu
