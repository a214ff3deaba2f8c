// The kernels of attention.hpp over sixteen lanes; included once by each tier's file.
#include <cmath>
#include <type_traits>

#include "kernels/cpu/attention.hpp"
#include "kernels/cpu/lanes.hpp"

namespace troupe::kernels::cpu {
namespace {

constexpr std::uint32_t chunk_tokens = 64;
constexpr std::uint32_t chunk_pages = chunk_tokens / kv_page_tokens;
constexpr std::uint32_t block_rows = 6;  // rows times two registers of sums, beside keys and a broadcast, fit sixteen
static_assert(kv_page_tokens == n_lanes && segment_tokens % chunk_tokens == 0);

template <kv_type Type> struct element;
template <> struct element<kv_type::f16> {
  using type = f16_bits;
  static vf read(const type* p) { return load_f16(p); }
  static void write(type* p, vf x) { store_f16(p, x); }
};
template <> struct element<kv_type::bf16> {
  using type = bf16_bits;
  static vf read(const type* p) { return load_bf16(p); }
  static void write(type* p, vf x) { store_bf16(p, x); }
};
template <> struct element<kv_type::f32> {
  using type = float;
  static vf read(const type* p) { return load(p); }
  static void write(type* p, vf x) { store(p, x); }
};

struct work {
  const attention_tile& tile;
  std::uint32_t rows, dim, padded;
  float* q;  // [rows][dim], scaled
  float* p;  // [rows][64]: scores, then probabilities
};

/// Running softmax of rows: maximum, sums per lane, values.
struct partial_view {
  float* data;
  std::uint32_t padded;
  float& top(std::uint32_t r) const { return data[r * (padded + 32)]; }
  float* sums(std::uint32_t r) const { return &top(r) + 16; }
  float* values(std::uint32_t r) const { return &top(r) + 32; }
  void clear(std::uint32_t rows) const {
    for (std::uint32_t i = 0; i < rows * (padded + 32); i += n_lanes) store(data + i, zero());
    for (std::uint32_t r = 0; r < rows; ++r) top(r) = -INFINITY;
  }
};

/// Scores of Rows queries with the sixteen keys of a page: one chain of fma over the head's elements per key.
template <kv_type Type, std::uint32_t Rows>
inline void score_page(const work& w, std::uint32_t row, const typename element<Type>::type* keys, std::uint32_t lane) {
  vf sums[Rows];
  for (std::uint32_t r = 0; r < Rows; ++r) sums[r] = zero();
  const float* q = w.q + row * w.dim;
  for (std::uint32_t d = 0; d < w.dim; ++d) {
    const vf k = element<Type>::read(keys + d * n_lanes);
    for (std::uint32_t r = 0; r < Rows; ++r) sums[r] = fma(set(q[r * w.dim + d]), k, sums[r]);
  }
  for (std::uint32_t r = 0; r < Rows; ++r) store(w.p + (row + r) * chunk_tokens + lane, sums[r]);
}

/// values[r] = values[r] * correction[r] + sum over keys [first, last) of the chunk of p[r][j] * V[j], keys ascending.
template <kv_type Type, std::uint32_t Rows>
inline void add_values(const work& w, std::uint32_t row, const partial_view& state, const float* corrections,
                       const typename element<Type>::type* const* values, std::uint32_t first, std::uint32_t last) {
  for (std::uint32_t d = 0; d < w.padded; d += n_lanes) {
    vf sums[Rows];
    for (std::uint32_t r = 0; r < Rows; ++r)
      sums[r] = mul(load(state.values(row + r) + d), set(corrections[row + r]));
    for (std::uint32_t j = first; j < last; ++j) {
      const vf v = element<Type>::read(values[j / kv_page_tokens] + (j % kv_page_tokens) * w.padded + d);
      for (std::uint32_t r = 0; r < Rows; ++r) sums[r] = fma(set(w.p[(row + r) * chunk_tokens + j]), v, sums[r]);
    }
    for (std::uint32_t r = 0; r < Rows; ++r) store(state.values(row + r) + d, sums[r]);
  }
}

/// Calls f with the number of rows as a compile-time constant, block after block.
template <class F>
inline void for_row_blocks(std::uint32_t rows, F f) {
  std::uint32_t row = 0;
  for (; row + block_rows <= rows; row += block_rows) f(std::integral_constant<std::uint32_t, block_rows>{}, row);
  switch (rows - row) {
    case 5: return f(std::integral_constant<std::uint32_t, 5>{}, row);
    case 4: return f(std::integral_constant<std::uint32_t, 4>{}, row);
    case 3: return f(std::integral_constant<std::uint32_t, 3>{}, row);
    case 2: return f(std::integral_constant<std::uint32_t, 2>{}, row);
    case 1: return f(std::integral_constant<std::uint32_t, 1>{}, row);
    default: return;
  }
}

inline vf capped(vf s, float cap) {
  // tanh(x) = 1 - 2 / (e^2x + 1)
  const vf x = mul(s, set(2.0f / cap));
  const vf t = sub(set(1.0f), div(set(2.0f), add(exp(x), set(1.0f))));
  return mul(t, set(cap));
}

/// Turns a row's scores of the chunk at `start` into probabilities relative to its new maximum, and returns what older
/// sums must be multiplied with.
inline float soften(const work& w, std::uint32_t row, const partial_view& state, std::uint32_t start) {
  const attention_tile& t = w.tile;
  const std::uint32_t position = t.position + row / t.n_heads;
  const std::uint32_t oldest = t.window && position >= t.window ? position - t.window + 1 : 0;
  float* p = w.p + row * chunk_tokens;
  if (position < start || oldest >= start + chunk_tokens) {
    for (std::uint32_t i = 0; i < chunk_tokens; i += n_lanes) store(p + i, zero());
    return 1.0f;
  }
  // Visible keys of the chunk: [from, to).
  const vf from = set(oldest > start ? static_cast<float>(oldest - start) : 0.0f);
  const vf to = set(static_cast<float>(position - start < chunk_tokens ? position - start + 1 : chunk_tokens));
  const vf hidden = set(-INFINITY);
  vf s[chunk_pages];
  vf top = hidden;
  for (std::uint32_t i = 0; i < chunk_pages; ++i) {
    s[i] = load(p + i * n_lanes);
    if (t.soft_cap != 0.0f) s[i] = capped(s[i], t.soft_cap);
    const vf index = add(to_float(iota()), set(static_cast<float>(i * n_lanes)));
    s[i] = select(less(index, to), select(less(index, from), hidden, s[i]), hidden);
    top = max(top, s[i]);
  }
  const float old = state.top(row), chunk_top = largest(top);
  const float now = old > chunk_top ? old : chunk_top;
  vf e[chunk_pages];
  for (std::uint32_t i = 0; i < chunk_pages; ++i) {
    e[i] = exp(sub(s[i], set(now)));
    store(p + i * n_lanes, e[i]);
  }
  const float correction = now == old ? 1.0f : first_lane(exp(set(old - now)));
  state.top(row) = now;
  float* sums = state.sums(row);
  store(sums, fma(load(sums), set(correction), add(add(e[0], e[1]), add(e[2], e[3]))));
  return correction;
}

template <kv_type Type>
void segment_of(const work& w, std::uint32_t segment, const partial_view& state) {
  using stored = typename element<Type>::type;
  const attention_tile& t = w.tile;
  const std::uint32_t begin = segment * segment_tokens;
  const std::uint32_t newest = t.position + t.n_tokens;  // one past the last visible key of any row
  const std::uint32_t oldest = t.window && t.position >= t.window ? t.position - t.window + 1 : 0;
  const std::uint32_t end = newest < begin + segment_tokens ? newest : begin + segment_tokens;
  const std::size_t head_bytes = kv_head_bytes(Type, w.dim);
  state.clear(w.rows);
  for (std::uint32_t start = begin; start < end; start += chunk_tokens) {
    if (start + chunk_tokens <= oldest) continue;
    const std::uint32_t first = oldest > start ? oldest - start : 0;
    const std::uint32_t last = end - start < chunk_tokens ? end - start : chunk_tokens;
    const stored* values[chunk_pages] = {};
    for (std::uint32_t page = first / kv_page_tokens; page * kv_page_tokens < last; ++page) {
      const auto* keys = reinterpret_cast<const stored*>(
          t.kv.base + t.pages[start / kv_page_tokens + page] * t.kv.page_stride + t.kv_head * head_bytes);
      values[page] = keys + w.dim * n_lanes;
      for_row_blocks(w.rows, [&](auto rows, std::uint32_t row) {
        score_page<Type, rows.value>(w, row, keys, page * kv_page_tokens);
      });
    }
    float corrections[max_tile_rows];
    for (std::uint32_t r = 0; r < w.rows; ++r) corrections[r] = soften(w, r, state, start);
    for_row_blocks(w.rows, [&](auto rows, std::uint32_t row) {
      add_values<Type, rows.value>(w, row, state, corrections, values, first, last);
    });
  }
}

void run_segment(const work& w, std::uint32_t segment, const partial_view& state) {
  switch (w.tile.kv.type) {
    case kv_type::f16: return segment_of<kv_type::f16>(w, segment, state);
    case kv_type::bf16: return segment_of<kv_type::bf16>(w, segment, state);
    case kv_type::f32: return segment_of<kv_type::f32>(w, segment, state);
  }
}

/// Scratch: queries, probabilities, then two partial results.
work prepare(const attention_tile& t, std::byte* scratch, bool with_queries) {
  work w{t, t.n_tokens * t.n_heads, t.kv.head_dim, static_cast<std::uint32_t>(padded_dim(t.kv.head_dim)), nullptr, nullptr};
  w.q = reinterpret_cast<float*>(scratch);
  w.p = w.q + max_tile_rows * w.dim;
  if (!with_queries) return w;
  const vf scale = set(t.scale);
  for (std::uint32_t r = 0; r < w.rows; ++r) {
    const float* from = t.q + r / t.n_heads * t.q_stride + r % t.n_heads * w.dim;
    float* to = w.q + r * w.dim;
    for (std::uint32_t d = 0; d < w.dim; d += n_lanes) {
      const std::uint32_t n = w.dim - d < n_lanes ? w.dim - d : n_lanes;
      store(to + d, mul(load(from + d, n), scale), n);
    }
  }
  return w;
}
partial_view scratch_partial(const work& w, std::uint32_t index) {
  return {w.p + max_tile_rows * chunk_tokens + index * partial_floats(max_tile_rows, w.dim), w.padded};
}

/// Adds one segment to the running result.
void merge_into(const work& w, const partial_view& total, const partial_view& part) {
  for (std::uint32_t r = 0; r < w.rows; ++r) {
    const float before = total.top(r), added = part.top(r);
    if (added == -INFINITY) continue;  // no key of the segment is visible to this query
    const float now = before > added ? before : added;
    const vf old_weight = exp(set(before - now)), new_weight = exp(set(added - now));
    total.top(r) = now;
    total.sums(r)[0] = first_lane(
        fma(set(sum(load(part.sums(r)))), new_weight, mul(set(total.sums(r)[0]), old_weight)));
    for (std::uint32_t d = 0; d < w.padded; d += n_lanes)
      store(total.values(r) + d,
            fma(load(part.values(r) + d), new_weight, mul(load(total.values(r) + d), old_weight)));
  }
}

void write_out(const work& w, const partial_view& total) {
  for (std::uint32_t r = 0; r < w.rows; ++r) {
    float* to = w.tile.out + r / w.tile.n_heads * w.tile.out_stride + r % w.tile.n_heads * w.dim;
    const vf whole = set(total.sums(r)[0]);
    for (std::uint32_t d = 0; d < w.dim; d += n_lanes)
      store(to + d, div(load(total.values(r) + d), whole), w.dim - d < n_lanes ? w.dim - d : n_lanes);
  }
}

void attend(const attention_tile& t, std::byte* scratch) {
  const work w = prepare(t, scratch, true);
  const partial_view part = scratch_partial(w, 0), total = scratch_partial(w, 1);
  total.clear(w.rows);
  for (std::uint32_t s = first_segment(t); s < n_segments(t); ++s) {
    run_segment(w, s, part);
    merge_into(w, total, part);
  }
  write_out(w, total);
}

void attend_segment(const attention_tile& t, std::uint32_t segment, float* partial, std::byte* scratch) {
  const work w = prepare(t, scratch, true);
  run_segment(w, segment, {partial, w.padded});
}

void merge(const attention_tile& t, const float* partials, std::byte* scratch) {
  const work w = prepare(t, scratch, false);
  const partial_view total = scratch_partial(w, 1);
  total.clear(w.rows);
  for (std::uint32_t s = first_segment(t); s < n_segments(t); ++s, partials += partial_floats(w.rows, w.dim))
    merge_into(w, total, {const_cast<float*>(partials), w.padded});
  write_out(w, total);
}

template <kv_type Type>
void store_token(std::uint32_t n_heads, std::uint32_t dim, const float* k, const float* v, std::byte* page,
                 std::uint32_t slot) {
  using stored = typename element<Type>::type;
  const auto padded = static_cast<std::uint32_t>(padded_dim(dim));
  for (std::uint32_t h = 0; h < n_heads; ++h, k += dim, v += dim, page += kv_head_bytes(Type, dim)) {
    auto* keys = reinterpret_cast<stored*>(page);
    stored* value = keys + dim * n_lanes + slot * padded;
    for (std::uint32_t d = 0; d < dim; d += n_lanes) {
      const std::uint32_t n = dim - d < n_lanes ? dim - d : n_lanes;
      stored lanes[n_lanes];
      element<Type>::write(lanes, load(k + d, n));
      for (std::uint32_t i = 0; i < n; ++i) keys[(d + i) * n_lanes + slot] = lanes[i];
      element<Type>::write(value + d, load(v + d, n));  // the padding becomes zero
    }
  }
}

void store_any(kv_type type, std::uint32_t n_heads, std::uint32_t dim, const float* k, const float* v, std::byte* page,
               std::uint32_t slot) {
  switch (type) {
    case kv_type::f16: return store_token<kv_type::f16>(n_heads, dim, k, v, page, slot);
    case kv_type::bf16: return store_token<kv_type::bf16>(n_heads, dim, k, v, page, slot);
    case kv_type::f32: return store_token<kv_type::f32>(n_heads, dim, k, v, page, slot);
  }
}

constexpr attention_kernels table{attend, attend_segment, merge, store_any};

}  // namespace
}  // namespace troupe::kernels::cpu
