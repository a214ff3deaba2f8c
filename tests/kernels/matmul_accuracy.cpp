#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "src/format/dequantize.hpp"
#include "tests/kernels/matmul_cases.hpp"

// Products against f64 sums over weights that src/format dequantizes, and inputs at the edges of their ranges. All tiers
// give the same bits (matmul.cpp), so the best one is tested.
using namespace matmul_cases;

namespace {

std::vector<float> dequantized(dtype type, const std::vector<std::byte>& source, std::size_t n) {
  std::vector<float> w(n);
  troupe::format::dequantize(type, source.data(), w.data(), n);
  return w;
}

/// What the quantized groups stand for.
std::vector<float> rounded_rows(const std::vector<float>& x, std::uint32_t m, std::uint32_t cols) {
  poisoned<activation_group> groups(quantized_groups(m, cols));
  matmul_kernels_for(best_isa()).quantize_rows(x.data(), cols, m, cols, 0, m, groups.get());
  std::vector<float> back(x.size());
  for (std::uint32_t i = 0; i < m; ++i)
    for (std::uint32_t k = 0; k < cols; ++k) {
      const activation_group& g = groups.get()[quantized_index(i, k / group_size, m, cols)];
      back[std::size_t{i} * cols + k] = g.scale * static_cast<float>(code_of(g, k % group_size));
    }
  return back;
}

/// ||y - reference|| / ||reference||.
double relative_error(const std::vector<float>& y, const std::vector<float>& w, const std::vector<float>& x,
                      std::uint32_t rows, std::uint32_t cols, std::uint32_t m) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t n = 0; n < rows; ++n) {
      double sum = 0;
      for (std::size_t k = 0; k < cols; ++k) sum += double{w[n * cols + k]} * x[i * cols + k];
      const double difference = y[i * (rows + y_margin) + n] - sum;
      error += difference * difference;
      norm += sum * sum;
    }
  return std::sqrt(error / norm);
}

}  // namespace

BOOST_AUTO_TEST_CASE(quantized_products_are_near_the_exact_ones) {
  std::mt19937 random(11);
  const std::uint32_t rows = 41, m = 32;
  for (dtype type : quantized_types)
    for (std::uint32_t cols : {256u, 2560u}) {
      const auto source = random_weights(type, rows, cols, random);
      const auto w = dequantized(type, source, std::size_t{rows} * cols);
      const packed p(type, source, rows, cols);
      // With columns fifty times larger than their neighbours, and without.
      for (float outlier : {50.0f, 1.0f}) {
        const auto x = random_rows(m, cols, random, outlier);
        const auto y = product(best_isa(), p.view(), x.data(), m);
        const auto what = std::string(name(type)) + ", " + std::to_string(cols) + " columns, outlier " + std::to_string(outlier);
        const double error = relative_error(y, w, x, rows, cols, m);
        // The largest of 32 normal numbers is some 2.1, the step that over 32512, its error a twelfth's root: 1.9e-5 and,
        // with the spread of maxima, 2.2e-5. An outlier sets the step of its group, which its 31 neighbours feel.
        BOOST_TEST(error <= (outlier > 1 ? 1e-4 : 3e-5), what << ": " << error);
        BOOST_TEST(relative_error(y, w, rounded_rows(x, m, cols), rows, cols, m) <= 1e-6, what << ", rounded");
      }
    }
}

BOOST_AUTO_TEST_CASE(unquantized_products_are_near_the_exact_ones) {
  std::mt19937 random(12);
  const std::uint32_t rows = 41, m = 9;
  for (dtype type : float_types)
    for (std::uint32_t cols : {33u, 2560u}) {
      const auto source = random_weights(type, rows, cols, random);
      const auto w = dequantized(type, source, std::size_t{rows} * cols);
      const auto x = random_rows(m, cols, random);
      const auto y = product(best_isa(), packed(type, source, rows, cols).view(), x.data(), m);
      BOOST_TEST(relative_error(y, w, x, rows, cols, m) <= 5e-5, name(type) << ", " << cols << " columns");
    }
}

// Each column of W in turn: an activation row that is 1 at one column, else 0, has the code 32512 and the scale 1/32512,
// so the product is the weight within rounding. Finds codes and scales in wrong places.
BOOST_AUTO_TEST_CASE(unit_activations_read_the_weights_back) {
  std::mt19937 random(13);
  const std::uint32_t rows = 19, cols = 512;
  std::vector<float> x(std::size_t{cols} * cols);
  for (std::size_t k = 0; k < cols; ++k) x[k * cols + k] = 1.0f;
  for (dtype type : all_types()) {
    const auto source = random_weights(type, rows, cols, random);
    const auto w = dequantized(type, source, std::size_t{rows} * cols);
    for (isa tier : tiers()) {
      const auto y = product(tier, packed(type, source, rows, cols).view(), x.data(), cols);
      float largest = 0;
      for (float v : w) largest = std::max(largest, std::abs(v));
      std::size_t wrong = 0;
      for (std::size_t k = 0; k < cols; ++k)
        for (std::size_t n = 0; n < rows; ++n)
          wrong += !(std::abs(y[k * (rows + y_margin) + n] - w[n * cols + k]) <= 1e-6f * largest);
      BOOST_TEST(wrong == 0u, name(type) << ", " << name(tier));
    }
  }
}

// The largest codes against the largest activations of either sign: sums at the rim of what the lanes hold.
BOOST_AUTO_TEST_CASE(extreme_codes_do_not_overflow) {
  const std::uint32_t rows = 17, cols = 512;
  std::mt19937 random(14);
  for (dtype type : quantized_types)
    for (int fill : {0x00, 0xff, 0x80, 0x7f, 0x88, 0x08}) {
      auto source = random_weights(type, rows, cols, random);
      const auto scales = source;
      for (auto& b : source) b = static_cast<std::byte>(fill);
      // Scales of the random blocks stay; only codes (and small integer scales) are extreme.
      const std::size_t block = traits(type).block_bytes;
      const auto keep = [&](std::size_t first, std::size_t n) {
        for (std::size_t b = 0; b < source.size(); b += block)
          std::copy_n(scales.begin() + static_cast<std::ptrdiff_t>(b + first), n,
                      source.begin() + static_cast<std::ptrdiff_t>(b + first));
      };
      switch (type) {
        case dtype::q2_k: keep(80, 4); break;
        case dtype::q3_k: keep(108, 2); break;
        case dtype::q6_k: keep(208, 2); break;
        case dtype::mxfp4: keep(0, 1); break;
        case dtype::q4_1:
        case dtype::q5_1:
        case dtype::q4_k:
        case dtype::q5_k: keep(0, 4); break;
        default: keep(0, 2); break;
      }
      const auto w = dequantized(type, source, std::size_t{rows} * cols);
      std::vector<float> x;
      for (int sign = 0; sign < 4; ++sign)
        for (std::uint32_t k = 0; k < cols; ++k) x.push_back(sign == 0 ? 1.0f : sign == 1 ? -1.0f : (k >> (sign == 2)) & 1 ? 1.0f : -1.0f);
      const packed p(type, source, rows, cols);
      const auto expected = product(isa::scalar, p.view(), x.data(), 4);
      // Alternating signs cancel: measure against the row of ones.
      double norm = 0;
      for (std::size_t n = 0; n < rows; ++n)
        for (std::size_t k = 0; k < cols; ++k) norm = std::max(norm, std::abs(double{w[n * cols + k]}) * cols);
      for (std::size_t i = 0; i < 4; ++i)
        for (std::size_t n = 0; n < rows; ++n) {
          double sum = 0;
          for (std::size_t k = 0; k < cols; ++k) sum += double{w[n * cols + k]} * x[i * cols + k];
          BOOST_TEST(std::abs(expected[i * (rows + y_margin) + n] - sum) <= 1e-5 * norm, name(type) << " " << fill);
        }
      for (isa tier : tiers()) BOOST_TEST(same_bits(product(tier, p.view(), x.data(), 4), expected), name(type) << " " << fill << " " << name(tier));
    }
}
