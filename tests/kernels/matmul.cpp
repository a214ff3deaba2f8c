#include <boost/test/unit_test.hpp>
#include <algorithm>
#include <string>

#include "tests/kernels/matmul_cases.hpp"

// Bit-for-bit equality: of tiers, of every number of activation rows with one row at a time, of every split of tiles.
using namespace matmul_cases;

namespace {

struct shape {
  std::uint32_t rows, cols;
};

std::string describe(dtype type, shape s, std::uint32_t m, isa tier) {
  return std::string(name(type)) + " " + std::to_string(s.rows) + " x " + std::to_string(s.cols) + ", m = " +
         std::to_string(m) + ", " + std::string(name(tier));
}

void check_shape(dtype type, shape s, const std::vector<std::uint32_t>& ms, std::mt19937& random) {
  if (!can_pack(type, s.cols)) return;
  const auto source = random_weights(type, s.rows, s.cols, random);
  const packed w(type, source, s.rows, s.cols);
  const std::uint32_t most = *std::max_element(ms.begin(), ms.end());
  const auto x = random_rows(most, s.cols, random);
  const std::size_t ld = s.rows + y_margin;

  // One row at a time by the scalar tier is what everything must equal.
  std::vector<float> expected;
  for (std::uint32_t i = 0; i < most; ++i) {
    const auto row = product(isa::scalar, w.view(), x.data() + std::size_t{i} * s.cols, 1);
    expected.insert(expected.end(), row.begin(), row.end());
  }
  for (std::size_t i = 0; i < most; ++i) {
    for (std::size_t n = 0; n < s.rows; ++n) BOOST_REQUIRE(std::isfinite(expected[i * ld + n]));
    for (std::size_t n = s.rows; n < ld; ++n)
      BOOST_REQUIRE(std::bit_cast<std::uint32_t>(expected[i * ld + n]) == 0xffffffffu);
  }
  for (isa tier : tiers())
    for (std::uint32_t m : ms)
      for (std::uint32_t split : {~0u, 1u, 3u}) {
        const auto y = product(tier, w.view(), x.data(), m, split);
        const std::vector<float> wanted(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(ld * m));
        BOOST_TEST(same_bits(y, wanted), describe(type, s, m, tier) << ", split " << split);
      }
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_tier_row_count_and_split_gives_the_same_bits) {
  std::mt19937 random(1);
  for (dtype type : all_types()) {
    const bool k_blocks = traits(type).block_elements == 256;
    for (std::uint32_t cols : k_blocks ? std::vector<std::uint32_t>{256, 512, 1792} : std::vector<std::uint32_t>{32, 64, 576})
      for (std::uint32_t rows : {1u, 7u, 16u, 17u, 53u})
        check_shape(type, {rows, cols}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 31}, random);
  }
}

BOOST_AUTO_TEST_CASE(more_rows_and_columns_than_a_cache_block) {
  std::mt19937 random(2);
  for (dtype type : all_types()) check_shape(type, {37, 2560}, {1, 64, 131, 264}, random);
}

BOOST_AUTO_TEST_CASE(the_shapes_of_a_small_model, *boost::unit_test::label("slow")) {
  std::mt19937 random(3);
  for (dtype type : all_types())
    for (shape s : {shape{576, 576}, shape{1536, 576}, shape{576, 1536}, shape{576, 2560}})
      check_shape(type, s, {1, 2, 8, 31, 64}, random);
}

BOOST_AUTO_TEST_CASE(unquantized_weights_take_any_number_of_columns) {
  std::mt19937 random(4);
  for (dtype type : float_types)
    for (std::uint32_t cols : {1u, 2u, 31u, 255u, 257u, 600u})
      check_shape(type, {33, cols}, {1, 2, 3, 5, 6, 7, 13, 31, 130}, random);
}

BOOST_AUTO_TEST_CASE(activations_may_be_rows_of_a_wider_array) {
  std::mt19937 random(5);
  const std::uint32_t rows = 20, cols = 64, m = 9, wide = 101;
  const auto x = random_rows(m, wide, random);
  std::vector<float> dense;
  for (std::uint32_t i = 0; i < m; ++i) dense.insert(dense.end(), &x[i * wide], &x[i * wide] + cols);
  for (dtype type : {dtype::q4_1, dtype::bf16}) {
    const packed w(type, random_weights(type, rows, cols, random), rows, cols);
    for (isa tier : tiers()) {
      const matmul_kernels& kernels = matmul_kernels_for(tier);
      poisoned<activation_group> groups(quantized_groups(m, cols));
      // Later rows first, in two calls.
      kernels.quantize_rows(x.data(), wide, m, cols, 4, m, groups.get());
      kernels.quantize_rows(x.data(), wide, m, cols, 0, 4, groups.get());
      poisoned<float> y(std::size_t{m} * (rows + y_margin));
      kernels.matmul(w.view(), 0, n_tiles(rows), {x.data(), wide, groups.get()}, m, y.get(), rows + y_margin);
      const std::vector<float> got(y.get(), y.get() + std::size_t{m} * (rows + y_margin));
      BOOST_TEST(same_bits(got, product(isa::scalar, w.view(), dense.data(), m)), describe(type, {rows, cols}, m, tier));
    }
  }
}

BOOST_AUTO_TEST_CASE(no_rows_no_tiles_no_output) {
  std::mt19937 random(6);
  for (dtype type : {dtype::q4_1, dtype::f16}) {
    const packed w(type, random_weights(type, 16, 64, random), 16, 64);
    for (isa tier : tiers()) {
      const matmul_kernels& kernels = matmul_kernels_for(tier);
      float y = 3.0f;
      kernels.matmul(w.view(), 0, 1, {}, 0, &y, 16);
      kernels.matmul(w.view(), 1, 1, {}, 1, &y, 16);
      BOOST_TEST(y == 3.0f);
    }
  }
}

BOOST_AUTO_TEST_CASE(what_cannot_be_packed_is_refused) {
  BOOST_TEST(!can_pack(dtype::q4_1, 0));
  BOOST_TEST(!can_pack(dtype::q4_1, 33));
  BOOST_TEST(!can_pack(dtype::q4_k, 128));
  BOOST_TEST(!can_pack(dtype::iq2_xxs, 256));
  BOOST_TEST(!can_pack(dtype::i8, 256));
  BOOST_TEST(packed_bytes(dtype::q4_k, 16, 128) == 0u);
  BOOST_TEST(packed_bytes(dtype::q4_1, 17, 576) == 2u * 18 * 320);
  BOOST_TEST(!wants_groups(dtype::bf16));
  BOOST_TEST(wants_groups(dtype::q8_0));
}
