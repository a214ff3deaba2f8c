#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "tests/kernels/matmul_cases.hpp"

using namespace matmul_cases;

namespace {

activation_group quantize_one(isa tier, const float* x) {
  poisoned<activation_group> group(1);
  matmul_kernels_for(tier).quantize_rows(x, group_size, 1, group_size, 0, 1, group.get());
  return *group.get();
}

bool same(const activation_group& a, const activation_group& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

}  // namespace

BOOST_AUTO_TEST_CASE(sums_and_scales_belong_to_the_codes) {
  std::mt19937 random(21);
  const std::uint32_t m = 11, cols = 96;
  const auto x = random_rows(m, cols, random);
  for (isa tier : tiers()) {
    poisoned<activation_group> groups(quantized_groups(m, cols));
    matmul_kernels_for(tier).quantize_rows(x.data(), cols, m, cols, 0, m, groups.get());
    for (std::uint32_t i = 0; i < m; ++i)
      for (std::uint32_t g = 0; g < cols / group_size; ++g) {
        const activation_group& a = groups.get()[quantized_index(i, g, m, cols)];
        const float* from = &x[std::size_t{i} * cols + g * group_size];
        float amax = 0;
        int sum = 0;
        for (std::uint32_t k = 0; k < group_size; ++k) {
          amax = std::max(amax, std::abs(from[k]));
          sum += code_of(a, k);
        }
        BOOST_TEST(a.scale == amax / 32512.0f);
        BOOST_TEST(a.scaled_sum == a.scale * static_cast<float>(sum));
        for (const activation_digit& d : a.digits) {
          int pair[6] = {}, half[2] = {};
          for (std::uint32_t k = 0; k < group_size; ++k) {
            BOOST_TEST(d.codes[k] >= -127);
            pair[k / 16 * 2 + k % 4 / 2] += d.codes[k];
            pair[4 + k % 4 / 2] += d.codes[k];
            half[k / 16] += d.codes[k];
          }
          for (int k = 0; k < 6; ++k) BOOST_TEST(d.pair_sums[k] == pair[k]);
          for (int k = 0; k < 2; ++k) BOOST_TEST(d.half_sums[k] == half[k]);
        }
        for (std::uint32_t k = 0; k < group_size; ++k) {
          const int rounded = static_cast<int>(std::nearbyint(from[k] * (32512.0f / amax)));
          BOOST_TEST(code_of(a, k) == rounded + ((rounded & 255) == 128));
        }
      }
  }
}

BOOST_AUTO_TEST_CASE(tiers_agree_on_every_magnitude) {
  std::mt19937 random(22);
  for (int round = 0; round < 20000; ++round) {
    float x[group_size];
    for (float& v : x) v = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (round % 2 == 0) {  // one magnitude for the whole group, so that most codes are not zero
      const int exponent = static_cast<int>(random() % 250) - 140;
      std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
      for (float& v : x) v = std::ldexp(uniform(random), exponent);
    }
    const activation_group expected = quantize_one(isa::scalar, x);
    for (isa tier : tiers()) {
      const activation_group got = quantize_one(tier, x);
      if (std::isfinite(expected.scale))
        BOOST_TEST(same(got, expected), name(tier));
      else
        BOOST_TEST(!std::isfinite(got.scale));
    }
  }
}

BOOST_AUTO_TEST_CASE(ties_go_to_even) {
  float x[group_size] = {32512.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 32510.5f, -32510.5f};
  for (isa tier : tiers()) {
    const activation_group a = quantize_one(tier, x);
    const int wanted[] = {32512, 0, 2, 2, 0, -2, -2, 32510, -32510};
    for (std::uint32_t k = 0; k < 9; ++k) BOOST_TEST(code_of(a, k) == wanted[k]);
  }
}

BOOST_AUTO_TEST_CASE(digits_are_symmetric) {
  float x[group_size] = {-32512.0f, 127.0f, 128.0f, 129.0f, -127.0f, -128.0f, -129.0f, 32383.0f, 32384.0f, -32384.0f, 32511.0f};
  const int wanted[][2] = {{-127, 0}, {0, 127}, {1, -127}, {1, -127}, {0, -127}, {0, -127},
                           {-1, 127}, {126, 127}, {127, -127}, {-126, -127}, {127, -1}};
  for (isa tier : tiers()) {
    const activation_group a = quantize_one(tier, x);
    for (std::uint32_t k = 0; k < std::size(wanted); ++k)
      for (int d = 0; d < 2; ++d) BOOST_TEST(static_cast<int>(a.digits[d].codes[k]) == wanted[k][d], k << " " << d);
  }
}

BOOST_AUTO_TEST_CASE(edges_of_the_range) {
  const float tiny = std::numeric_limits<float>::denorm_min(), huge = std::numeric_limits<float>::max();
  for (isa tier : tiers()) {
    float x[group_size] = {};
    const activation_group zero = quantize_one(tier, x);
    BOOST_TEST(zero.scale == 0.0f);
    BOOST_TEST(same(zero, activation_group{}));

    x[3] = tiny;
    BOOST_TEST(same(quantize_one(tier, x), activation_group{}));
    x[3] = std::ldexp(1.0f, -101);
    BOOST_TEST(same(quantize_one(tier, x), activation_group{}));
    x[3] = std::ldexp(-1.0f, -100);
    BOOST_TEST(code_of(quantize_one(tier, x), 3) == -32512);

    x[4] = huge;
    BOOST_TEST(code_of(quantize_one(tier, x), 4) == 32512);
    BOOST_TEST(quantize_one(tier, x).scale == huge / 32512.0f);

    for (float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                      std::numeric_limits<float>::quiet_NaN()}) {
      x[31] = bad;
      const activation_group a = quantize_one(tier, x);
      BOOST_TEST(!std::isfinite(a.scale));
      BOOST_TEST(!std::isfinite(a.scaled_sum));
      for (std::uint32_t k = 0; k < group_size; ++k) BOOST_TEST(code_of(a, k) == 0);
    }
  }
}

BOOST_AUTO_TEST_CASE(what_is_not_finite_shows_in_every_product) {
  std::mt19937 random(23);
  const std::uint32_t rows = 18, cols = 256;
  for (dtype type : all_types()) {
    const packed w(type, random_weights(type, rows, cols, random), rows, cols);
    auto x = random_rows(3, cols, random);
    x[cols + 77] = std::numeric_limits<float>::quiet_NaN();
    for (isa tier : tiers()) {
      const auto y = product(tier, w.view(), x.data(), 3);
      for (std::uint32_t n = 0; n < rows; ++n) {
        BOOST_TEST(std::isfinite(y[n]));
        BOOST_TEST(!std::isfinite(y[rows + y_margin + n]));
        BOOST_TEST(std::isfinite(y[2 * (rows + y_margin) + n]));
      }
    }
  }
}
