#include <immintrin.h>

#include "kernels/common/blocks.hpp"
#include "kernels/cpu/matmul_layout.hpp"
#include "kernels/cpu/matmul_tiers.hpp"

// The AVX2 tier. A vector holds four columns of eight rows; a tile has two such halves. Products are summed by
// vpmaddubsw in 16-bit lanes for as long as the codes' size allows (noted at each place), then in 32-bit lanes.
namespace troupe::kernels::cpu {
namespace {

using vector = __m256i;

template <class V>
[[gnu::always_inline]] inline V load(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
template <class V>
[[gnu::always_inline]] inline V splat(char byte) {
  return _mm256_set1_epi8(byte);
}
[[gnu::always_inline]] inline vector and_(vector a, vector b) { return _mm256_and_si256(a, b); }
[[gnu::always_inline]] inline vector or_(vector a, vector b) { return _mm256_or_si256(a, b); }
template <int Left>
[[gnu::always_inline]] inline vector shift(vector v) {
  if constexpr (Left > 0) return _mm256_slli_epi16(v, Left);
  if constexpr (Left < 0) return _mm256_srli_epi16(v, -Left);
  return v;
}
[[gnu::always_inline]] inline vector lookup(const std::int8_t (&values)[16], vector index) {
  const __m128i once = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(once), index);
}
[[gnu::always_inline]] inline vector broadcast4(const void* p) {
  int word;
  __builtin_memcpy(&word, p, sizeof word);
  return _mm256_set1_epi32(word);
}

/// Compilers see that additions could be regrouped and then run out of registers; this pins the order they are written in.
[[gnu::always_inline]] inline void keep_order(vector& v) { asm volatile("" : "+x"(v)); }

#include "kernels/cpu/matmul_codes.inl"
#include "kernels/cpu/matmul_driver.inl"

/// Eight f16 numbers.
[[gnu::always_inline]] inline __m256 halves(const std::byte* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
/// Eight unsigned bytes.
[[gnu::always_inline]] inline __m256 bytes(const std::byte* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
/// Eight signed bytes, each in both 16-bit halves of its row's lane.
[[gnu::always_inline]] inline vector doubled(__m128i eight) {
  return _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(eight, eight));
}

/// What `run` asks of a group's weights, h being the half of the tile: read from the packed tile ...
template <layout L>
struct packed_group {
  const std::byte* at;
  const std::byte* header;

  template <int J>
  [[gnu::always_inline]] vector codes(int h) const {
    return codes_of_slice<L, vector, J>(at, 32 * h);
  }
  [[gnu::always_inline]] __m256 d(int h) const {
    const std::byte* scales = at + L.code_bytes();
    if constexpr (L.scales == scaling::f32) return _mm256_loadu_ps(reinterpret_cast<const float*>(scales) + 8 * h);
    if constexpr (L.scales == scaling::k_scale_min) return _mm256_mul_ps(halves(header + 16 * h), bytes(scales + 8 * h));
    return halves((L.has_header() ? header : scales) + 16 * h);
  }
  [[gnu::always_inline]] __m256 min(int h) const {
    const std::byte* scales = at + L.code_bytes();
    const __m256 minus = _mm256_set1_ps(-0.0f);
    if constexpr (L.scales == scaling::d_m) return halves(scales + 32 + 16 * h);
    const __m256 dmin = halves(header + 32 + 16 * h);
    if constexpr (L.scales == scaling::k_scale_min)
      return _mm256_xor_ps(_mm256_mul_ps(dmin, bytes(scales + 16 + 8 * h)), minus);
    return _mm256_xor_ps(dmin, minus);
  }
  /// The integer scales of half a group: each row's scale twice, as 16-bit numbers.
  [[gnu::always_inline]] vector half_scales(int half_group, int h) const {
    __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at + L.code_bytes() + 16 * half_group + 8 * h));
    if constexpr (L.scales == scaling::k_scales_mins) eight = _mm_and_si128(eight, _mm_set1_epi8(15));
    return doubled(eight);
  }
  /// The integer minima of both halves of a group, side by side as 16-bit numbers.
  [[gnu::always_inline]] vector half_mins(int h) const {
    const std::byte* scales = at + L.code_bytes() + 8 * h;
    const __m128i both = _mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales)),
                                           _mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales + 16)));
    return _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(both, 4), _mm_set1_epi8(15)));
  }
};

/// ... or unpacked before.
template <layout L>
struct panel_group {
  alignas(64) std::uint8_t slices[8][64];
  alignas(64) float ds[16];
  alignas(has_minima<L> ? 64 : 4) float minima[has_minima<L> ? 16 : 1];
  alignas(L.halves() ? 64 : 4) std::int16_t scales[L.halves() ? 2 : 1][L.halves() ? 32 : 1];
  alignas(has_mins<L> ? 64 : 4) std::int16_t mins[has_mins<L> ? 32 : 1];

  template <int J>
  [[gnu::always_inline]] vector codes(int h) const {
    return load<vector>(slices[J] + 32 * h);
  }
  [[gnu::always_inline]] __m256 d(int h) const { return _mm256_loadu_ps(ds + 8 * h); }
  [[gnu::always_inline]] __m256 min(int h) const { return _mm256_loadu_ps(minima + 8 * h); }
  [[gnu::always_inline]] vector half_scales(int half_group, int h) const {
    return load<vector>(scales[half_group] + 16 * h);
  }
  [[gnu::always_inline]] vector half_mins(int h) const { return load<vector>(mins + 16 * h); }
};

template <layout L>
[[gnu::always_inline]] inline packed_group<L> group_at(const packed_source<L>& source, std::uint32_t g) {
  return {source.tile.group(source.first + g), source.tile.header(source.first + g)};
}
template <layout L>
[[gnu::always_inline]] inline const panel_group<L>& group_at(const panel_group<L>* const& source, std::uint32_t g) {
  return source[g];
}

constexpr int log2_of(int power) { return power <= 1 ? 0 : 1 + log2_of(power / 2); }

/// Exact sums of products of one group: 2 x 8 rows of weights with Count digits, from First on, of N / Count rows of
/// activations. Unless the type has two scales per group, sums of first digits come multiplied by 256.
template <layout L, int N, int First, int Count, class Group>
[[gnu::always_inline]] inline void dot(const Group& w, const activation_group* x, vector (&sum)[2][N]) {
  const auto digit = [x](int n) __attribute__((always_inline)) -> const activation_digit& {
    return x[n / Count].digits[First + n % Count];
  };
  const auto worth = [](int n) __attribute__((always_inline)) {
    return _mm256_set1_epi16(First + n % Count == 0 ? 256 : 1);
  };
  if constexpr (L.bits == 8 || L.values != table::none) {
    // Signed codes of up to 128 in magnitude: a pair of products stays below 2^15, two pairs would not.
    unroll<8>([&](auto j) __attribute__((always_inline)) {
      constexpr int J = decltype(j)::value;
      vector code[2], magnitude[2];
      unroll<2>([&](auto h) __attribute__((always_inline)) {
        code[h] = w.template codes<J>(h);
        magnitude[h] = _mm256_abs_epi8(code[h]);
      });
      unroll<N>([&](auto t) __attribute__((always_inline)) {
        const vector a = broadcast4(digit(t).codes + 4 * J);
        unroll<2>([&](auto h) __attribute__((always_inline)) {
          const vector pairs = _mm256_maddubs_epi16(magnitude[h], _mm256_sign_epi8(a, code[h]));
          const vector products = _mm256_madd_epi16(pairs, worth(t));
          sum[h][t] = J == 0 ? products : _mm256_add_epi32(sum[h][t], products);
          keep_order(sum[h][t]);
        });
      });
    });
  } else {
    // How many slices fit into 16-bit lanes: with four bits all eight (8 * 2 * 15 * 127 < 2^15), with five bits four.
    // Where an offset is taken off in the same lanes only the result has to fit, since additions wrap around: then
    // eight slices do with an offset of up to 16, four with 32. Types with two scales per group take four.
    constexpr int chunk = L.halves() || (L.bits == 5 && L.offset == 0) ? 4 : 8;
    unroll<8 / chunk>([&](auto c) __attribute__((always_inline)) {
      constexpr int C = decltype(c)::value;
      vector lanes[2][N];
      unroll<chunk>([&](auto j) __attribute__((always_inline)) {
        // Slices j and j + 4 come out of the same bytes where codes have four bits or more.
        constexpr int i = decltype(j)::value;
        constexpr int J = chunk == 4 ? 4 * C + i : i / 2 + i % 2 * 4;
        const vector code[2] = {w.template codes<J>(0), w.template codes<J>(1)};
        unroll<N>([&](auto t) __attribute__((always_inline)) {
          const vector a = broadcast4(digit(t).codes + 4 * J);
          unroll<2>([&](auto h) __attribute__((always_inline)) {
            const vector pairs = _mm256_maddubs_epi16(code[h], a);
            lanes[h][t] = i == 0 ? pairs : _mm256_add_epi16(lanes[h][t], pairs);
            keep_order(lanes[h][t]);
          });
        });
      });
      if constexpr (L.offset != 0) {
        unroll<N>([&](auto t) __attribute__((always_inline)) {
          const vector off =
              _mm256_slli_epi16(broadcast4(digit(t).pair_sums + (chunk == 8 ? 4 : 2 * C)), log2_of(L.offset));
          unroll<2>([&](auto h) __attribute__((always_inline)) { lanes[h][t] = _mm256_sub_epi16(lanes[h][t], off); });
        });
      }
      unroll<2>([&](auto h) __attribute__((always_inline)) {
        vector scales;
        if constexpr (L.halves()) scales = w.half_scales(C, h);
        unroll<N>([&](auto t) __attribute__((always_inline)) {
          const vector products = _mm256_madd_epi16(lanes[h][t], L.halves() ? scales : worth(t));
          sum[h][t] = C == 0 ? products : _mm256_add_epi32(sum[h][t], products);
        });
      });
    });
  }
}

/// 256 * first + last of digits' sums, rounded once.
template <layout L>
[[gnu::always_inline]] inline __m256 whole(vector first, vector last) {
  if constexpr (L.halves())
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(first), _mm256_set1_ps(256.0f), _mm256_cvtepi32_ps(last));
  return _mm256_cvtepi32_ps(_mm256_add_epi32(first, last));
}

/// Sums of products of one group, rounded once to f32: 2 x 8 rows of weights with T rows of activations.
template <layout L, int T, class Group>
[[gnu::always_inline]] inline void dot(const Group& w, const activation_group* x, __m256 (&result)[2][T]) {
  if constexpr (T <= 2) {  // both digits meet the codes when they are at hand
    vector sum[2][2 * T];
    dot<L, 2 * T, 0, 2>(w, x, sum);
    unroll<T>([&](auto t) __attribute__((always_inline)) {
      unroll<2>([&](auto h) __attribute__((always_inline)) {
        result[h][t] = whole<L>(sum[h][2 * t], sum[h][2 * t + 1]);
      });
    });
  } else {  // there are not registers enough for that
    vector first[2][T], last[2][T];
    dot<L, T, 0, 1>(w, x, first);
    dot<L, T, 1, 1>(w, x, last);
    unroll<T>([&](auto t) __attribute__((always_inline)) {
      unroll<2>([&](auto h) __attribute__((always_inline)) { result[h][t] = whole<L>(first[h][t], last[h][t]); });
    });
  }
}

struct avx2_tier {
  static constexpr std::uint32_t max_rows = 4, direct_rows = 8;
  template <layout L>
  using panel = panel_group<unpacked(L)>;

  template <layout L>
  [[gnu::noinline]] static void unpack(const tile_view<L>& tile, std::uint32_t g, panel_group<unpacked(L)>& to) {
    const packed_group<L> from{tile.group(g), tile.header(g)};
    unroll<2>([&](auto h) __attribute__((always_inline)) {
      const auto put = [h](void* p, vector v) __attribute__((always_inline)) {
        _mm256_store_si256(static_cast<vector*>(p) + h, v);
      };
      unroll<8>([&](auto j) __attribute__((always_inline)) {
        put(to.slices[j], from.template codes<decltype(j)::value>(h));
      });
      _mm256_storeu_ps(to.ds + 8 * h, from.d(h));
      if constexpr (has_minima<unpacked(L)>) _mm256_storeu_ps(to.minima + 8 * h, from.min(h));
      if constexpr (L.halves())
        for (int half_group = 0; half_group < 2; ++half_group)
          put(to.scales[half_group], from.half_scales(half_group, h));
      if constexpr (L.scales == scaling::k_scales_mins) put(to.mins, from.half_mins(h));
    });
  }

  template <layout L, int T, class Source>
  [[gnu::noinline]] static void run(const Source& source, std::uint32_t n_groups, const activation_group* x, std::uint32_t x_step,
                  float* out, std::size_t ld, bool from_zero) {
    __m256 acc[2][T];
    unroll<T>([&](auto t) __attribute__((always_inline)) {
      unroll<2>([&](auto h) __attribute__((always_inline)) {
        acc[h][t] = from_zero ? _mm256_setzero_ps() : _mm256_loadu_ps(out + t * ld + 8 * h);
      });
    });
    for (std::uint32_t g = 0; g < n_groups; ++g, x += x_step) {
      const auto& w = group_at(source, g);
      __m256 sum[2][T];
      dot<L, T>(w, x, sum);
      unroll<2>([&](auto h) __attribute__((always_inline)) {
        const __m256 d = w.d(h);
        unroll<T>([&](auto t) __attribute__((always_inline)) {
          const __m256 scale = _mm256_mul_ps(d, _mm256_broadcast_ss(&x[t].scale));
          acc[h][t] = _mm256_fmadd_ps(sum[h][t], scale, acc[h][t]);
          if constexpr (L.has_min())
            acc[h][t] = _mm256_fmadd_ps(w.min(h), _mm256_broadcast_ss(&x[t].scaled_sum), acc[h][t]);
          if constexpr (L.scales == scaling::k_scales_mins) {
            const vector half_mins = w.half_mins(h);
            const __m256 mins = whole<L>(_mm256_madd_epi16(half_mins, broadcast4(x[t].digits[0].half_sums)),
                                         _mm256_madd_epi16(half_mins, broadcast4(x[t].digits[1].half_sums)));
            const __m256 factor = _mm256_mul_ps(w.min(h), _mm256_broadcast_ss(&x[t].scale));
            acc[h][t] = _mm256_fmadd_ps(mins, factor, acc[h][t]);
          }
        });
      });
    }
    unroll<T>([&](auto t) __attribute__((always_inline)) {
      unroll<2>([&](auto h) __attribute__((always_inline)) { _mm256_storeu_ps(out + t * ld + 8 * h, acc[h][t]); });
    });
  }
};

#include "kernels/cpu/matmul_float.inl"

struct avx2_lanes {
  using vec = __m256;
  static constexpr int width = 8, chains = 12;

  static vec zero() { return _mm256_setzero_ps(); }
  static vec get(const float* p) { return _mm256_loadu_ps(p); }
  static void put(float* p, vec v) { _mm256_storeu_ps(p, v); }
  static vec splat(const float* p) { return _mm256_broadcast_ss(p); }
  static vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
  static vec load(const float* p) { return _mm256_loadu_ps(p); }
  static vec load(const f16* p) { return halves(reinterpret_cast<const std::byte*>(p)); }
  static vec load(const bf16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
};

}  // namespace

constinit const matmul_kernels avx2_matmul_kernels{quantize_rows_avx2, matmul_any<avx2_tier, avx2_lanes>};

}  // namespace troupe::kernels::cpu
