#include <bit>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/common/blocks.hpp"

using namespace troupe::kernels;

namespace {

bool is_nan16(std::uint32_t h) { return (h & 0x7c00) == 0x7c00 && (h & 0x3ff) != 0; }

/// What binary16 means, from its definition.
double meaning_of_f16(std::uint32_t h) {
  const double sign = (h & 0x8000) != 0 ? -1.0 : 1.0;
  const int exponent = static_cast<int>((h >> 10) & 31);
  const double mantissa = h & 0x3ff;
  if (exponent == 31) return sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(floats)

BOOST_AUTO_TEST_CASE(every_f16_has_its_value_and_comes_back) {
  for (std::uint32_t h = 0; h < 0x10000; ++h) {
    const float f = f16_to_f32(static_cast<f16_bits>(h));
    if (is_nan16(h)) {
      BOOST_REQUIRE(std::isnan(f));
      BOOST_REQUIRE_EQUAL(f32_to_f16(f), h | 0x200);
      continue;
    }
    BOOST_REQUIRE_EQUAL(static_cast<double>(f), meaning_of_f16(h));
    BOOST_REQUIRE_EQUAL(std::signbit(f), (h & 0x8000) != 0);
    BOOST_REQUIRE_EQUAL(f32_to_f16(f), h);
  }
}

BOOST_AUTO_TEST_CASE(f32_rounds_to_the_nearest_f16_and_ties_to_even) {
  // Between any two neighbours the midpoint is an exact f32; just beside it the nearer one must win.
  for (std::uint32_t h = 0; h < 0x7c00; ++h) {
    const double low = meaning_of_f16(h);
    const double high = h == 0x7bff ? 65536.0 : meaning_of_f16(h + 1);  // beyond the last finite one lies infinity
    const float middle = static_cast<float>((low + high) / 2);
    const std::uint32_t even = (h & 1) == 0 ? h : h + 1;
    for (std::uint32_t sign : {0u, 0x8000u}) {
      const float s = sign != 0 ? -1.0f : 1.0f;
      BOOST_REQUIRE_EQUAL(f32_to_f16(s * middle), sign | even);
      BOOST_REQUIRE_EQUAL(f32_to_f16(s * std::nextafter(middle, 0.0f)), sign | h);
      BOOST_REQUIRE_EQUAL(f32_to_f16(s * std::nextafter(middle, 1e9f)), sign | (h + 1));
    }
  }
  BOOST_TEST(f32_to_f16(std::numeric_limits<float>::infinity()) == 0x7c00);
  BOOST_TEST(f32_to_f16(std::numeric_limits<float>::max()) == 0x7c00);
  BOOST_TEST(f32_to_f16(std::numeric_limits<float>::denorm_min()) == 0);
}

BOOST_AUTO_TEST_CASE(bf16_is_the_upper_half_rounded_to_even) {
  std::mt19937 random(7);
  for (int i = 0; i < 1'000'000; ++i) {
    const auto bits = static_cast<std::uint32_t>(random());
    const float f = std::bit_cast<float>(bits);
    const bf16_bits b = f32_to_bf16(f);
    if (std::isnan(f)) {
      BOOST_REQUIRE(std::isnan(bf16_to_f32(b)));
      continue;
    }
    const std::uint32_t low = bits & 0xffff;
    std::uint32_t expected = bits >> 16;
    if (low > 0x8000 || (low == 0x8000 && (expected & 1) != 0)) ++expected;
    BOOST_REQUIRE_EQUAL(b, expected);
  }
  for (std::uint32_t b = 0; b < 0x10000; ++b) {
    const float f = bf16_to_f32(static_cast<bf16_bits>(b));
    if (!std::isnan(f)) BOOST_REQUIRE_EQUAL(f32_to_bf16(f), b);
  }
  // A NaN whose payload lies in the lower half only must not become infinity.
  BOOST_TEST(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u)))));
}

BOOST_AUTO_TEST_CASE(e8m0_halves_are_powers_of_two) {
  for (int e = 0; e < 256; ++e) {
    BOOST_TEST(static_cast<double>(e8m0_to_f32_half(static_cast<std::uint8_t>(e))) == std::ldexp(1.0, e - 128));
  }
}

BOOST_AUTO_TEST_CASE(the_holes_of_ggmls_numbering_are_refused) {
  for (std::uint32_t hole : {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, 42u, 1000u, 0xffffu, 0x10000u, 0xffffffffu}) {
    BOOST_TEST(!dtype_of_ggml_id(hole).has_value(), "id " << hole);
  }
  BOOST_TEST((dtype_of_ggml_id(12) == dtype::q4_k));
  BOOST_TEST((dtype_of_ggml_id(30) == dtype::bf16));
}

BOOST_AUTO_TEST_CASE(sizes_are_counted_in_whole_blocks_and_never_wrap) {
  BOOST_TEST(bytes_of(dtype::q4_k, 512).value() == 288u);
  BOOST_TEST(bytes_of(dtype::f32, 0).value() == 0u);
  BOOST_TEST(!bytes_of(dtype::q4_k, 255).has_value());
  BOOST_TEST(!bytes_of(dtype::f64, std::uint64_t{1} << 61).has_value());
  BOOST_TEST(!bytes_of(static_cast<dtype>(4), 32).has_value());
  for (const dtype_traits& t : dtypes()) {
    BOOST_TEST(t.block_elements > 0u);
    BOOST_TEST(t.block_bytes > 0u);
    BOOST_TEST((dtype_of_name(t.name) == t.type), t.name);
  }
}

BOOST_AUTO_TEST_SUITE_END()
