#include <immintrin.h>

#include "kernels/cpu/matmul_tiers.hpp"

namespace troupe::kernels::cpu {
namespace {

std::uint32_t largest(__m256i v) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(m));
}

/// Stores 32 codes and their sums; the sum of all.
int put_digit(__m256i codes, activation_digit& out) {
  // Words of a 128-bit half: sums of columns {0, 1}, {2, 3} of each slice; then over the four slices of the half.
  __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes);
  pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0x4e));
  pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
  const __m128i first = _mm256_castsi256_si128(pairs), second = _mm256_extracti128_si256(pairs, 1);
  const __m128i all = _mm_add_epi16(first, second);
  // Words: first pair sums, second pair sums, pair sums of all, half sums.
  const __m128i halves = _mm_hadd_epi16(first, second);  // word 0: first half, word 4: second half
  const __m128i half_sums = _mm_unpacklo_epi16(halves, _mm_unpackhi_epi64(halves, halves));
  const __m128i sums = _mm_unpacklo_epi64(_mm_unpacklo_epi32(first, second), _mm_unpacklo_epi32(all, half_sums));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.codes), codes);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out.pair_sums), sums);
  return static_cast<std::int16_t>(_mm_extract_epi16(half_sums, 0)) +
         static_cast<std::int16_t>(_mm_extract_epi16(half_sums, 1));
}

void quantize_group(const float* x, activation_group& out) {
  const __m256 x0 = _mm256_loadu_ps(x), x1 = _mm256_loadu_ps(x + 8);
  const __m256 x2 = _mm256_loadu_ps(x + 16), x3 = _mm256_loadu_ps(x + 24);
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  const auto bits = [magnitude](__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), magnitude); };
  const std::uint32_t amax_bits = largest(
      _mm256_max_epu32(_mm256_max_epu32(bits(x0), bits(x1)), _mm256_max_epu32(bits(x2), bits(x3))));
  const float amax = __builtin_bit_cast(float, amax_bits);
  __m256i* const at = reinterpret_cast<__m256i*>(&out);
  _mm256_store_si256(at + 3, _mm256_setzero_si256());
  if (amax_bits < least_amax_bits || amax_bits >= 0x7f800000u) {
    for (int i = 0; i < 3; ++i) _mm256_store_si256(at + i, _mm256_setzero_si256());
    if (amax_bits >= 0x7f800000u) {
      out.scale = amax / largest_activation;
      out.scaled_sum = out.scale * 0.0f;
    }
    return;
  }
  const __m256 inverse = _mm256_set1_ps(largest_activation / amax);
  const auto code = [inverse](__m256 v) { return _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)); };
  // 16-bit codes: columns 0-3, 8-11, 4-7, 12-15 of half a group.
  const __m256i low = _mm256_packs_epi32(code(x0), code(x1)), high = _mm256_packs_epi32(code(x2), code(x3));
  const auto first_digit = [](__m256i v) { return _mm256_srai_epi16(_mm256_add_epi16(v, _mm256_set1_epi16(128)), 8); };
  const auto last_digit = [](__m256i v, __m256i first) {
    return _mm256_max_epi16(_mm256_sub_epi16(v, _mm256_slli_epi16(first, 8)), _mm256_set1_epi16(-127));
  };
  const auto bytes = [](__m256i a, __m256i b) {
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  };
  const __m256i first_low = first_digit(low), first_high = first_digit(high);
  const int first_sum = put_digit(bytes(first_low, first_high), out.digits[0]);
  const int last_sum = put_digit(bytes(last_digit(low, first_low), last_digit(high, first_high)), out.digits[1]);
  out.scale = amax / largest_activation;
  out.scaled_sum = out.scale * static_cast<float>(256 * first_sum + last_sum);
}

}  // namespace

void quantize_rows_avx2(const float* x, std::size_t ld, std::uint32_t m, std::uint32_t cols, std::uint32_t first_row,
                        std::uint32_t last_row, activation_group* groups) {
  for (std::uint32_t r = first_row; r < last_row; ++r) {
    const std::size_t first = quantized_index(r, 0, m, cols), step = quantized_index(r, 1, m, cols) - first;
    for (std::uint32_t g = 0; g < cols / group_size; ++g)
      quantize_group(x + r * ld + std::size_t{g} * group_size, groups[first + g * step]);
  }
}

}  // namespace troupe::kernels::cpu
