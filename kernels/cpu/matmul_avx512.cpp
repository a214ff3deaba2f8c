#include <immintrin.h>

#include "kernels/common/blocks.hpp"
#include "kernels/cpu/matmul_layout.hpp"
#include "kernels/cpu/matmul_tiers.hpp"

// The AVX-512 tier with VNNI. A vector holds four columns of all 16 rows of a tile; vpdpbusd adds their products with
// four activations, broadcast from memory, to 32-bit lanes. Its first factor is unsigned: signed codes get 128 added,
// and every offset is taken off through sums of activations.
namespace troupe::kernels::cpu {
namespace {

using vector = __m512i;

template <class V>
[[gnu::always_inline]] inline V load(const void* p) {
  return _mm512_loadu_si512(p);
}
template <class V>
[[gnu::always_inline]] inline V splat(char byte) {
  return _mm512_set1_epi8(byte);
}
[[gnu::always_inline]] inline vector and_(vector a, vector b) { return _mm512_and_si512(a, b); }
[[gnu::always_inline]] inline vector or_(vector a, vector b) { return _mm512_or_si512(a, b); }
template <int Left>
[[gnu::always_inline]] inline vector shift(vector v) {
  if constexpr (Left > 0) return _mm512_slli_epi16(v, Left);
  if constexpr (Left < 0) return _mm512_srli_epi16(v, -Left);
  return v;
}
[[gnu::always_inline]] inline vector lookup(const std::int8_t (&values)[16], vector index) {
  const __m128i once = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(once), index);
}
[[gnu::always_inline]] inline vector broadcast4(const void* p) {
  int word;
  __builtin_memcpy(&word, p, sizeof word);
  return _mm512_set1_epi32(word);
}

#include "kernels/cpu/matmul_codes.inl"
#include "kernels/cpu/matmul_driver.inl"

template <layout L>
constexpr bool is_signed = L.bits == 8 || L.values != table::none;
template <layout L>
constexpr int offset_of = is_signed<L> ? 128 : L.offset;

/// Sixteen f16 numbers.
[[gnu::always_inline]] inline __m512 halves(const std::byte* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
[[gnu::always_inline]] inline __m128i sixteen_bytes(const std::byte* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
[[gnu::always_inline]] inline __m512 negated(__m512 v) { return _mm512_xor_ps(v, _mm512_set1_ps(-0.0f)); }

/// What `run` asks of a group's weights: read from the packed tile ...
template <layout L>
struct packed_group {
  const std::byte* at;
  const std::byte* header;

  /// Unsigned: code + offset_of<L>.
  template <int J>
  [[gnu::always_inline]] vector codes() const {
    const vector v = codes_of_slice<L, vector, J>(at, 0);
    if constexpr (is_signed<L>) return _mm512_xor_si512(v, _mm512_set1_epi8(-128));
    return v;
  }
  [[gnu::always_inline]] __m512 d() const {
    const std::byte* scales = at + L.code_bytes();
    if constexpr (L.scales == scaling::f32) return _mm512_loadu_ps(scales);
    if constexpr (L.scales == scaling::k_scale_min)
      return _mm512_mul_ps(halves(header), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(sixteen_bytes(scales))));
    return halves(L.has_header() ? header : scales);
  }
  [[gnu::always_inline]] __m512 min() const {
    const std::byte* scales = at + L.code_bytes();
    if constexpr (L.scales == scaling::d_m) return halves(scales + 32);
    const __m512 dmin = halves(header + 32);
    if constexpr (L.scales == scaling::k_scale_min)
      return negated(_mm512_mul_ps(dmin, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(sixteen_bytes(scales + 16)))));
    return negated(dmin);
  }
  /// The integer scales of half a group.
  [[gnu::always_inline]] __m512 half_scales(int half_group) const {
    const __m128i all = sixteen_bytes(at + L.code_bytes() + 16 * half_group);
    if constexpr (L.scales == scaling::k_scales_mins)
      return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(all, _mm_set1_epi8(15))));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(all));
  }
  /// The integer minima of both halves of a group, side by side as 16-bit numbers.
  [[gnu::always_inline]] vector half_mins() const {
    const __m128i first = sixteen_bytes(at + L.code_bytes()), second = sixteen_bytes(at + L.code_bytes() + 16);
    const __m256i both = _mm256_set_m128i(_mm_unpackhi_epi8(first, second), _mm_unpacklo_epi8(first, second));
    return _mm512_cvtepu8_epi16(_mm256_and_si256(_mm256_srli_epi16(both, 4), _mm256_set1_epi8(15)));
  }
};

/// ... or unpacked before.
template <layout L>
struct panel_group {
  alignas(64) std::uint8_t slices[8][64];
  alignas(64) float ds[16];
  alignas(has_minima<L> ? 64 : 4) float minima[has_minima<L> ? 16 : 1];
  alignas(L.halves() ? 64 : 4) float scales[L.halves() ? 2 : 1][L.halves() ? 16 : 1];
  alignas(has_mins<L> ? 64 : 4) std::int16_t mins[has_mins<L> ? 32 : 1];

  template <int J>
  [[gnu::always_inline]] vector codes() const {
    return load<vector>(slices[J]);
  }
  [[gnu::always_inline]] __m512 d() const { return _mm512_loadu_ps(ds); }
  [[gnu::always_inline]] __m512 min() const { return _mm512_loadu_ps(minima); }
  [[gnu::always_inline]] __m512 half_scales(int half_group) const { return _mm512_loadu_ps(scales[half_group]); }
  [[gnu::always_inline]] vector half_mins() const { return load<vector>(mins); }
};

template <layout L>
[[gnu::always_inline]] inline packed_group<L> group_at(const packed_source<L>& source, std::uint32_t g) {
  return {source.tile.group(source.first + g), source.tile.header(source.first + g)};
}
template <layout L>
[[gnu::always_inline]] inline const panel_group<L>& group_at(const panel_group<L>* const& source, std::uint32_t g) {
  return source[g];
}

/// Two 16-bit numbers in every 32-bit lane, `first` in the lower half.
[[gnu::always_inline]] inline vector splat_pair(int first, int second) {
  return _mm512_set1_epi32(static_cast<int>((static_cast<unsigned>(second) << 16) | (first & 0xffff)));
}

/// Sums of products of one group, exact: 16 rows of weights with digit D of T rows of activations.
template <layout L, int T, int D, class Group>
[[gnu::always_inline]] inline void dot_digit(const Group& w, const activation_group* x, __m512 (&result)[T]) {
  // Two chains: the halves of a group where they have scales of their own; else so that one row of activations does not
  // wait for vpdpbusd's latency eight times in a row.
  constexpr int chains = L.halves() || T <= 2 ? 2 : 1;
  constexpr int offset = offset_of<L>;
  vector sum[chains][T];
  unroll<T>([&](auto t) __attribute__((always_inline)) {
    unroll<chains>([&](auto c) __attribute__((always_inline)) {
      sum[c][t] = _mm512_setzero_si512();
      if constexpr (offset != 0) {
        const bool takes_first = chains == 1 || c == 0, takes_second = chains == 1 || c == 1;
        sum[c][t] = _mm512_madd_epi16(broadcast4(x[t].digits[D].half_sums),
                                      splat_pair(takes_first ? -offset : 0, takes_second ? -offset : 0));
      }
    });
  });
  unroll<8>([&](auto j) __attribute__((always_inline)) {
    // Chain 0 takes slices 0-3 and chain 1 slices 4-7; both come out of the same bytes, so their order alternates.
    constexpr int i = decltype(j)::value;
    constexpr int J = i / 2 + i % 2 * 4;
    const vector code = w.template codes<J>();
    unroll<T>([&](auto t) __attribute__((always_inline)) {
      constexpr int c = chains == 2 ? J / 4 : 0;
      sum[c][t] = _mm512_dpbusd_epi32(sum[c][t], code, broadcast4(x[t].digits[D].codes + 4 * J));
    });
  });
  if constexpr (L.halves()) {
    // All integers here stay below 2^24, so f32 holds them exactly. Adding to zero keeps a zero from being negative.
    const __m512 first = w.half_scales(0), second = w.half_scales(1);
    unroll<T>([&](auto t) __attribute__((always_inline)) {
      result[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[0][t]), first, _mm512_setzero_ps());
      result[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[chains - 1][t]), second, result[t]);
    });
  } else {
    unroll<T>([&](auto t) __attribute__((always_inline)) {
      if constexpr (chains == 2) sum[0][t] = _mm512_add_epi32(sum[0][t], sum[1][t]);
      result[t] = _mm512_cvtepi32_ps(sum[0][t]);
    });
  }
}

/// 256 * first + last of digits' sums, which are exact, rounded once.
[[gnu::always_inline]] inline __m512 whole(__m512 first, __m512 last) {
  return _mm512_fmadd_ps(first, _mm512_set1_ps(256.0f), last);
}

/// Sums of products of one group, rounded once to f32: 16 rows of weights with T rows of activations.
template <layout L, int T, class Group>
[[gnu::always_inline]] inline void dot(const Group& w, const activation_group* x, __m512 (&result)[T]) {
  __m512 last[T];
  dot_digit<L, T, 0>(w, x, result);
  dot_digit<L, T, 1>(w, x, last);
  unroll<T>([&](auto t) __attribute__((always_inline)) { result[t] = whole(result[t], last[t]); });
}

struct avx512_tier {
  static constexpr std::uint32_t max_rows = 8, direct_rows = 16;
  template <layout L>
  using panel = panel_group<unpacked(L)>;

  template <layout L>
  [[gnu::noinline]] static void unpack(const tile_view<L>& tile, std::uint32_t g, panel_group<unpacked(L)>& to) {
    const packed_group<L> from{tile.group(g), tile.header(g)};
    unroll<8>([&](auto j) __attribute__((always_inline)) {
      _mm512_store_si512(to.slices[j], from.template codes<decltype(j)::value>());
    });
    _mm512_storeu_ps(to.ds, from.d());
    if constexpr (has_minima<unpacked(L)>) _mm512_storeu_ps(to.minima, from.min());
    if constexpr (L.halves())
      for (int half_group = 0; half_group < 2; ++half_group)
        _mm512_storeu_ps(to.scales[half_group], from.half_scales(half_group));
    if constexpr (L.scales == scaling::k_scales_mins) _mm512_storeu_si512(to.mins, from.half_mins());
  }

  template <layout L, int T, class Source>
  [[gnu::noinline]] static void run(const Source& source, std::uint32_t n_groups, const activation_group* x, std::uint32_t x_step,
                  float* out, std::size_t ld, bool from_zero) {
    __m512 acc[T];
    unroll<T>([&](auto t) __attribute__((always_inline)) {
      acc[t] = from_zero ? _mm512_setzero_ps() : _mm512_loadu_ps(out + t * ld);
    });
    for (std::uint32_t g = 0; g < n_groups; ++g, x += x_step) {
      const auto& w = group_at(source, g);
      __m512 sum[T];
      dot<L, T>(w, x, sum);
      const __m512 d = w.d();
      unroll<T>([&](auto t) __attribute__((always_inline)) {
        const __m512 scale = _mm512_set1_ps(x[t].scale);
        acc[t] = _mm512_fmadd_ps(sum[t], _mm512_mul_ps(d, scale), acc[t]);
        if constexpr (L.has_min()) acc[t] = _mm512_fmadd_ps(w.min(), _mm512_set1_ps(x[t].scaled_sum), acc[t]);
        if constexpr (L.scales == scaling::k_scales_mins) {
          const vector half_mins = w.half_mins();
          const __m512 mins =
              whole(_mm512_cvtepi32_ps(_mm512_madd_epi16(half_mins, broadcast4(x[t].digits[0].half_sums))),
                    _mm512_cvtepi32_ps(_mm512_madd_epi16(half_mins, broadcast4(x[t].digits[1].half_sums))));
          acc[t] = _mm512_fmadd_ps(mins, _mm512_mul_ps(w.min(), scale), acc[t]);
        }
      });
    }
    unroll<T>([&](auto t) __attribute__((always_inline)) { _mm512_storeu_ps(out + t * ld, acc[t]); });
  }
};

#include "kernels/cpu/matmul_float.inl"

struct avx512_lanes {
  using vec = __m512;
  static constexpr int width = 16, chains = 12;

  static vec zero() { return _mm512_setzero_ps(); }
  static vec get(const float* p) { return _mm512_loadu_ps(p); }
  static void put(float* p, vec v) { _mm512_storeu_ps(p, v); }
  static vec splat(const float* p) { return _mm512_set1_ps(*p); }
  static vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
  static vec load(const float* p) { return _mm512_loadu_ps(p); }
  static vec load(const f16* p) { return halves(reinterpret_cast<const std::byte*>(p)); }
  static vec load(const bf16* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
};

}  // namespace

constinit const matmul_kernels avx512_matmul_kernels{quantize_rows_avx2, matmul_any<avx512_tier, avx512_lanes>};

}  // namespace troupe::kernels::cpu
