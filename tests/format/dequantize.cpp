#include "src/format/dequantize.hpp"

#include <bit>
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "src/format/gguf.hpp"
#include "src/format/safetensors.hpp"
#include "tests/format/bytes.hpp"

using namespace troupe;
using namespace troupe::format;
using test::fixture;

BOOST_AUTO_TEST_SUITE(dequantizing)

BOOST_AUTO_TEST_CASE(every_readable_type_is_bit_exact_with_gguf_py) {
  const auto blocks = gguf_file::open(fixture("all.gguf")).value();
  const auto expected = safetensors_file::open(fixture("all_f32.safetensors")).value();
  BOOST_TEST(expected.tensors().size() == 16u);
  for (const kernels::dtype_traits& t : kernels::dtypes()) {
    if (t.type == dtype::f8_e4m3) continue;  // gguf-py does not know it: the next test
    std::string name(t.name);
    for (char& c : name) c = static_cast<char>(std::tolower(c));
    const tensor_view* want = expected.find(name);
    BOOST_TEST_REQUIRE(can_dequantize(t.type) == (want != nullptr), t.name);
    if (want == nullptr) continue;
    const tensor_view* have = blocks.find(name);
    BOOST_REQUIRE(have != nullptr);
    BOOST_REQUIRE((have->type == t.type));
    BOOST_REQUIRE((have->shape == want->shape));
    std::vector<float> values(have->shape.elements());
    dequantize(*have, values).value();
    std::size_t finite = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float w = test::load<float>(want->data, i);
      if (std::isnan(w)) {
        BOOST_REQUIRE_MESSAGE(std::isnan(values[i]), t.name << " " << i);
      } else {
        BOOST_REQUIRE_MESSAGE(std::bit_cast<std::uint32_t>(values[i]) == std::bit_cast<std::uint32_t>(w),
                              t.name << " " << i << ": " << values[i] << " for " << w);
        finite += std::isfinite(w) ? 1 : 0;
      }
    }
    BOOST_TEST(finite > values.size() / 2);  // the blocks must not be mostly odd ones
  }
}

BOOST_AUTO_TEST_CASE(f8_is_what_its_specification_says_times_its_scale) {
  std::byte codes[256];
  for (int i = 0; i < 256; ++i) codes[i] = static_cast<std::byte>(i);
  const tensor_view plain{"x", dtype::f8_e4m3, {4, 64}, codes};
  tensor_view scaled = plain;
  scaled.scale = 0.3f;
  std::vector<float> a(256), b(128);
  dequantize(plain, a).value();
  dequantize_rows(scaled, 2, 2, b).value();
  for (int code = 0; code < 256; ++code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    const auto i = static_cast<std::size_t>(code);
    double want = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    if (code & 0x80) want = -want;
    if ((code & 0x7f) == 0x7f) {
      BOOST_TEST(std::isnan(a[i]));
    } else {
      BOOST_TEST(double{a[i]} == want);
      BOOST_TEST(std::signbit(a[i]) == ((code & 0x80) != 0));
      if (code >= 128) BOOST_TEST(b[i - 128] == a[i] * 0.3f);
    }
  }
  BOOST_TEST(std::isnan(b[127]));
}

BOOST_AUTO_TEST_CASE(a_range_of_rows_is_that_part_of_the_whole) {
  const auto file = gguf_file::open(fixture("all.gguf")).value();
  const tensor_view& t = *file.find("q5_k");
  std::vector<float> whole(t.shape.elements()), part(3 * 256);
  dequantize(t, whole).value();
  dequantize_rows(t, 2, 3, part).value();
  for (std::size_t i = 0; i < part.size(); ++i) {
    BOOST_REQUIRE_EQUAL(std::bit_cast<std::uint32_t>(part[i]), std::bit_cast<std::uint32_t>(whole[2 * 256 + i]));
  }
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused) {
  const auto file = gguf_file::open(fixture("all.gguf")).value();
  const tensor_view& t = *file.find("q4_0");  // 10 rows of 64
  std::vector<float> row(64);
  BOOST_TEST(dequantize_rows(t, 9, 1, row).ok());
  BOOST_TEST((dequantize_rows(t, 10, 1, row).error().code == errc::invalid_argument));
  BOOST_TEST((dequantize_rows(t, ~0ull, 1, row).error().code == errc::invalid_argument));
  BOOST_TEST((dequantize_rows(t, 0, 2, row).error().code == errc::invalid_argument));
  BOOST_TEST((dequantize_rows(t, 1, ~0ull, row).error().code == errc::invalid_argument));
  row.resize(6);
  BOOST_TEST((dequantize(*file.find("i32"), row).error().code == errc::unsupported));
}

BOOST_AUTO_TEST_CASE(blocks_may_lie_at_any_address) {
  const auto file = gguf_file::open(fixture("all.gguf")).value();
  for (const tensor_view& t : file.tensors()) {
    if (!can_dequantize(t.type)) continue;
    std::vector<std::byte> shifted(t.data.size() + 1);
    std::memcpy(shifted.data() + 1, t.data.data(), t.data.size());
    std::vector<float> a(t.shape.elements()), b(a.size());
    dequantize(t.type, t.data.data(), a.data(), a.size());
    dequantize(t.type, shifted.data() + 1, b.data(), b.size());
    BOOST_TEST(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0, t.name);
  }
}

BOOST_AUTO_TEST_SUITE_END()
