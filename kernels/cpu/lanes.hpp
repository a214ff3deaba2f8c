#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/common/floats.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/// Sixteen lanes of f32 or of 32-bit integers, on every tier: one 512-bit register, two of 256 bits, or an array.
/// A kernel that is written over these types once and compiled per tier computes the same bits on all of them: each
/// operation is one IEEE operation per lane, fma is fused everywhere, and horizontal sums have one fixed tree.
///
/// To be included by the tier files of kernels/cpu only; everything has internal linkage, so that the linker cannot take
/// one tier's copy for another.
namespace troupe::kernels::cpu {
namespace {

constexpr std::size_t n_lanes = 16;

#if defined(__AVX512F__)

struct vf {
  __m512 v;
};
struct vi {
  __m512i v;
};
struct vm {
  __mmask16 v;
};

inline vf zero() { return {_mm512_setzero_ps()}; }
inline vf set(float x) { return {_mm512_set1_ps(x)}; }
inline vf load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, vf x) { _mm512_storeu_ps(p, x.v); }
inline __mmask16 first(std::size_t n) { return static_cast<__mmask16>((1u << n) - 1); }
inline vf load(const float* p, std::size_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline void store(float* p, vf x, std::size_t n) { _mm512_mask_storeu_ps(p, first(n), x.v); }
inline vf add(vf a, vf b) { return {_mm512_add_ps(a.v, b.v)}; }
inline vf sub(vf a, vf b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline vf mul(vf a, vf b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline vf div(vf a, vf b) { return {_mm512_div_ps(a.v, b.v)}; }
inline vf fma(vf a, vf b, vf c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
/// a > b ? a : b, so b where either is NaN.
inline vf max(vf a, vf b) { return {_mm512_max_ps(a.v, b.v)}; }
/// a < b ? a : b.
inline vf min(vf a, vf b) { return {_mm512_min_ps(a.v, b.v)}; }
/// Lanes 2i and 2i+1 change places.
inline vf swap_pairs(vf a) { return {_mm512_permute_ps(a.v, 0b10110001)}; }

inline vi iset(std::uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
inline vi iload(const std::uint32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void istore(std::uint32_t* p, vi x) { _mm512_storeu_si512(p, x.v); }
inline vi bits(vf a) { return {_mm512_castps_si512(a.v)}; }
inline vf as_float(vi a) { return {_mm512_castsi512_ps(a.v)}; }
inline vi iadd(vi a, vi b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline vi isub(vi a, vi b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline vi iand(vi a, vi b) { return {_mm512_and_si512(a.v, b.v)}; }
inline vi ior(vi a, vi b) { return {_mm512_or_si512(a.v, b.v)}; }
inline vi ixor(vi a, vi b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int N> inline vi shift_left(vi a) { return {_mm512_slli_epi32(a.v, N)}; }
template <int N> inline vi shift_right(vi a) { return {_mm512_srli_epi32(a.v, N)}; }
/// Signed maximum.
inline vi imax(vi a, vi b) { return {_mm512_max_epi32(a.v, b.v)}; }
/// From signed integers, rounded to nearest even.
inline vf to_float(vi a) { return {_mm512_cvtepi32_ps(a.v)}; }
/// Low and high halves of the 64-bit unsigned products.
inline void imul(vi a, vi b, vi& low, vi& high) {
  const __m512i even = _mm512_mul_epu32(a.v, b.v);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), _mm512_srli_epi64(b.v, 32));
  low = {_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32))};
  high = {_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd)};
}

inline vm less(vf a, vf b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline vm greater_equal(vf a, vf b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
inline vf select(vm m, vf yes, vf no) { return {_mm512_mask_blend_ps(m.v, no.v, yes.v)}; }
inline vi iselect(vm m, vi yes, vi no) { return {_mm512_mask_blend_epi32(m.v, no.v, yes.v)}; }
/// One bit per lane.
inline std::uint32_t mask_bits(vm m) { return m.v; }

inline vf load_f16(const f16_bits* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
inline void store_f16(f16_bits* p, vf x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline vf load_bf16(const bf16_bits* p) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16))};
}

inline float sum(vf x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline float first_lane(vf x) { return _mm512_cvtss_f32(x.v); }
/// The largest lane; any value if a lane is NaN.
inline float largest(vf x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#elif defined(__AVX2__)

struct vf {
  __m256 a, b;
};
struct vi {
  __m256i a, b;
};
struct vm {
  __m256 a, b;
};

inline vf zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline vf set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline vf load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, vf x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
alignas(64) constexpr std::int32_t lane_masks[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                                     -1, -1, -1, -1, -1, 0,  0,  0,  0,  0,  0,
                                                     0,  0,  0,  0,  0,  0,  0,  0,  0,  0};
inline __m256i first_low(std::size_t n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane_masks + 16 - n));
}
inline __m256i first_high(std::size_t n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane_masks + 24 - n));
}
inline vf load(const float* p, std::size_t n) {
  return {_mm256_maskload_ps(p, first_low(n)), n > 8 ? _mm256_maskload_ps(p + 8, first_high(n)) : _mm256_setzero_ps()};
}
inline void store(float* p, vf x, std::size_t n) {
  _mm256_maskstore_ps(p, first_low(n), x.a);
  if (n > 8) _mm256_maskstore_ps(p + 8, first_high(n), x.b);
}
inline vf add(vf x, vf y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline vf sub(vf x, vf y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline vf mul(vf x, vf y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline vf div(vf x, vf y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline vf fma(vf x, vf y, vf z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
/// a > b ? a : b, so b where either is NaN.
inline vf max(vf x, vf y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
/// a < b ? a : b.
inline vf min(vf x, vf y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
/// Lanes 2i and 2i+1 change places.
inline vf swap_pairs(vf x) { return {_mm256_permute_ps(x.a, 0b10110001), _mm256_permute_ps(x.b, 0b10110001)}; }

inline vi iset(std::uint32_t x) { return {_mm256_set1_epi32(static_cast<int>(x)), _mm256_set1_epi32(static_cast<int>(x))}; }
inline vi iload(const std::uint32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
inline void istore(std::uint32_t* p, vi x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
inline vi bits(vf x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline vf as_float(vi x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline vi iadd(vi x, vi y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline vi isub(vi x, vi y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
inline vi iand(vi x, vi y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
inline vi ior(vi x, vi y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
inline vi ixor(vi x, vi y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
template <int N> inline vi shift_left(vi x) { return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)}; }
template <int N> inline vi shift_right(vi x) { return {_mm256_srli_epi32(x.a, N), _mm256_srli_epi32(x.b, N)}; }
/// Signed maximum.
inline vi imax(vi x, vi y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
/// From signed integers, rounded to nearest even.
inline vf to_float(vi x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline void imul(__m256i a, __m256i b, __m256i& low, __m256i& high) {
  const __m256i even = _mm256_mul_epu32(a, b);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}
/// Low and high halves of the 64-bit unsigned products.
inline void imul(vi x, vi y, vi& low, vi& high) {
  imul(x.a, y.a, low.a, high.a);
  imul(x.b, y.b, low.b, high.b);
}

inline vm less(vf x, vf y) { return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)}; }
inline vm greater_equal(vf x, vf y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)};
}
inline vf select(vm m, vf yes, vf no) {
  return {_mm256_blendv_ps(no.a, yes.a, m.a), _mm256_blendv_ps(no.b, yes.b, m.b)};
}
inline vi iselect(vm m, vi yes, vi no) { return bits(select(m, as_float(yes), as_float(no))); }
/// One bit per lane.
inline std::uint32_t mask_bits(vm m) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(m.a)) | static_cast<std::uint32_t>(_mm256_movemask_ps(m.b)) << 8;
}

inline vf load_f16(const f16_bits* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline void store_f16(f16_bits* p, vf x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline vf load_bf16(const bf16_bits* p) {
  const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(raw)), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm256_extracti128_si256(raw, 1)), 16))};
}

inline float sum(vf x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline float first_lane(vf x) { return _mm256_cvtss_f32(x.a); }
/// The largest lane; any value if a lane is NaN.
inline float largest(vf x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#else

struct vf {
  float v[16];
};
struct vi {
  std::uint32_t v[16];
};
struct vm {
  bool v[16];
};

template <class F> inline vf each(F f) {
  vf r;
  for (std::size_t i = 0; i < n_lanes; ++i) r.v[i] = f(i);
  return r;
}
template <class F> inline vi ieach(F f) {
  vi r;
  for (std::size_t i = 0; i < n_lanes; ++i) r.v[i] = f(i);
  return r;
}
inline vf zero() { return vf{}; }
inline vf set(float x) { return each([&](auto) { return x; }); }
inline vf load(const float* p) { return each([&](auto i) { return p[i]; }); }
inline void store(float* p, vf x) { std::memcpy(p, x.v, sizeof x.v); }
inline vf load(const float* p, std::size_t n) { return each([&](auto i) { return i < n ? p[i] : 0.0f; }); }
inline void store(float* p, vf x, std::size_t n) { std::memcpy(p, x.v, n * sizeof(float)); }
inline vf add(vf a, vf b) { return each([&](auto i) { return a.v[i] + b.v[i]; }); }
inline vf sub(vf a, vf b) { return each([&](auto i) { return a.v[i] - b.v[i]; }); }
inline vf mul(vf a, vf b) { return each([&](auto i) { return a.v[i] * b.v[i]; }); }
inline vf div(vf a, vf b) { return each([&](auto i) { return a.v[i] / b.v[i]; }); }
inline vf fma(vf a, vf b, vf c) { return each([&](auto i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
/// a > b ? a : b, so b where either is NaN.
inline vf max(vf a, vf b) { return each([&](auto i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
/// a < b ? a : b.
inline vf min(vf a, vf b) { return each([&](auto i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
/// Lanes 2i and 2i+1 change places.
inline vf swap_pairs(vf a) { return each([&](auto i) { return a.v[i ^ 1]; }); }

inline vi iset(std::uint32_t x) { return ieach([&](auto) { return x; }); }
inline vi iload(const std::uint32_t* p) { return ieach([&](auto i) { return p[i]; }); }
inline void istore(std::uint32_t* p, vi x) { std::memcpy(p, x.v, sizeof x.v); }
inline vi bits(vf a) { return std::bit_cast<vi>(a); }
inline vf as_float(vi a) { return std::bit_cast<vf>(a); }
inline vi iadd(vi a, vi b) { return ieach([&](auto i) { return a.v[i] + b.v[i]; }); }
inline vi isub(vi a, vi b) { return ieach([&](auto i) { return a.v[i] - b.v[i]; }); }
inline vi iand(vi a, vi b) { return ieach([&](auto i) { return a.v[i] & b.v[i]; }); }
inline vi ior(vi a, vi b) { return ieach([&](auto i) { return a.v[i] | b.v[i]; }); }
inline vi ixor(vi a, vi b) { return ieach([&](auto i) { return a.v[i] ^ b.v[i]; }); }
template <int N> inline vi shift_left(vi a) { return ieach([&](auto i) { return a.v[i] << N; }); }
template <int N> inline vi shift_right(vi a) { return ieach([&](auto i) { return a.v[i] >> N; }); }
/// Signed maximum.
inline vi imax(vi a, vi b) {
  return ieach([&](auto i) {
    return static_cast<std::int32_t>(a.v[i]) > static_cast<std::int32_t>(b.v[i]) ? a.v[i] : b.v[i];
  });
}
/// From signed integers, rounded to nearest even.
inline vf to_float(vi a) { return each([&](auto i) { return static_cast<float>(static_cast<std::int32_t>(a.v[i])); }); }
/// Low and high halves of the 64-bit unsigned products.
inline void imul(vi a, vi b, vi& low, vi& high) {
  low = ieach([&](auto i) { return a.v[i] * b.v[i]; });
  high = ieach([&](auto i) { return static_cast<std::uint32_t>((std::uint64_t{a.v[i]} * b.v[i]) >> 32); });
}

inline vm less(vf a, vf b) {
  vm m;
  for (std::size_t i = 0; i < n_lanes; ++i) m.v[i] = a.v[i] < b.v[i];
  return m;
}
inline vm greater_equal(vf a, vf b) {
  vm m;
  for (std::size_t i = 0; i < n_lanes; ++i) m.v[i] = a.v[i] >= b.v[i];
  return m;
}
inline vf select(vm m, vf yes, vf no) { return each([&](auto i) { return m.v[i] ? yes.v[i] : no.v[i]; }); }
inline vi iselect(vm m, vi yes, vi no) { return ieach([&](auto i) { return m.v[i] ? yes.v[i] : no.v[i]; }); }
/// One bit per lane.
inline std::uint32_t mask_bits(vm m) {
  std::uint32_t out = 0;
  for (std::size_t i = 0; i < n_lanes; ++i) out |= std::uint32_t{m.v[i]} << i;
  return out;
}

inline vf load_f16(const f16_bits* p) { return each([&](auto i) { return f16_to_f32(p[i]); }); }
inline void store_f16(f16_bits* p, vf x) {
  for (std::size_t i = 0; i < n_lanes; ++i) p[i] = f32_to_f16(x.v[i]);
}
inline vf load_bf16(const bf16_bits* p) { return each([&](auto i) { return bf16_to_f32(p[i]); }); }

inline float sum(vf x) {
  for (std::size_t half = 8; half > 0; half /= 2)
    for (std::size_t i = 0; i < half; ++i) x.v[i] = x.v[i] + x.v[i + half];
  return x.v[0];
}

inline float first_lane(vf x) { return x.v[0]; }
/// The largest lane; any value if a lane is NaN.
inline float largest(vf x) {
  for (std::size_t half = 8; half > 0; half /= 2)
    for (std::size_t i = 0; i < half; ++i) x.v[i] = x.v[i] > x.v[i + half] ? x.v[i] : x.v[i + half];
  return x.v[0];
}

#endif

inline vi iota() {
  static constexpr std::uint32_t numbers[n_lanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return iload(numbers);
}
inline void store_bf16(bf16_bits* p, vf x) {
  float lanes[n_lanes];
  store(lanes, x);
  for (std::size_t i = 0; i < n_lanes; ++i) p[i] = f32_to_bf16(lanes[i]);
}
/// e^x within 2 ulp; 0 below -87, e^88.37 above; NaN stays. Range reduction and coefficients: Cephes, expf.
inline vf exp(vf x) {
  const vf low = set(-87.0f);
  const vm underflow = less(x, low);
  x = min(set(88.37f), max(low, x));
  const vf magic = set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf shifted = fma(x, set(1.44269504088896341f), magic);
  const vf n = sub(shifted, magic);
  vf r = fma(n, set(-0.693359375f), x);
  r = fma(n, set(2.12194440e-4f), r);
  vf p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set(1.0f));
  const vf y = as_float(iadd(bits(p), shift_left<23>(bits(shifted))));
  return select(underflow, zero(), y);
}

}  // namespace
}  // namespace troupe::kernels::cpu
