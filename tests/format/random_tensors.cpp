#include "src/format/random_tensors.hpp"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <string>

#include "src/format/dequantize.hpp"

using namespace troupe;
using namespace troupe::format;

namespace {

std::vector<float> values(const tensor_view& t, std::uint64_t first, std::uint64_t n_rows) {
  std::vector<float> out(n_rows * t.shape.row());
  dequantize_rows(t, first, n_rows, out).value();
  return out;
}

std::size_t n_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t n = 0;
  for (std::string line; std::getline(maps, line);) ++n;
  return n;
}

}  // namespace

BOOST_AUTO_TEST_CASE(random_tensors_have_the_promised_spread_and_differ) {
  for (dtype type : {dtype::bf16, dtype::f16, dtype::f32}) {
    const auto source = random_tensors::make({{"a", {300, 512}}, {"n", {512}, true}, {"b", {300, 512}}}, type, "made up").value();
    BOOST_TEST_REQUIRE(source->tensors().size() == 3u);
    const auto a = values(*source->find("a"), 0, 300), b = values(*source->find("b"), 0, 300);
    double sum = 0, squares = 0, largest = 0, apart = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      sum += a[i];
      squares += double{a[i]} * a[i];
      largest = std::max(largest, std::abs(double{a[i]}));
      apart += a[i] != b[i];
    }
    const double n = static_cast<double>(a.size()), sigma = random_tensors::random_deviation;
    BOOST_TEST(std::abs(sum / n) < 6 * sigma / std::sqrt(n));
    BOOST_TEST(std::sqrt(squares / n) == sigma, boost::test_tools::tolerance(0.02));
    BOOST_TEST(largest <= sigma * 1.74);
    BOOST_TEST(apart / n > 0.9);  // bf16 has some values twice by chance
    for (float x : values(*source->find("n"), 0, 1)) BOOST_TEST(x == 1.0f);
    const auto again = random_tensors::make({{"x", {8, 512}}, {"a", {300, 512}}, {"n", {512}, true}, {"b", {292, 512}}}, type, "").value();
    BOOST_TEST((values(*again->find("a"), 0, 300) == a), "the same name and pool give the same values");
  }
}

BOOST_AUTO_TEST_CASE(a_hundred_gigabytes_take_address_space_only) {
  std::vector<made_tensor> large;
  for (int i = 0; i < 70; ++i) large.push_back({"layer " + std::to_string(i), {28672, 28672}});
  const std::size_t before = n_mappings();
  {
    const auto source = random_tensors::make(std::move(large), dtype::bf16, "large").value();
    BOOST_TEST(n_mappings() - before < 70u * 27);
    for (const tensor_view& t : source->tensors()) {
      BOOST_TEST_REQUIRE(t.data.size() == 28672u * 28672 * 2);
      for (std::uint64_t row : {0, 9999, 28671})
        for (float x : values(t, row, 1)) BOOST_TEST_REQUIRE(std::abs(x) < 0.035f);
    }
  }
  BOOST_TEST(n_mappings() <= before + 4);  // the windows are gone
}

BOOST_AUTO_TEST_CASE(what_cannot_be_made_is_refused) {
  BOOST_TEST((random_tensors::make({{"a", {8}}}, dtype::q8_0, "x").error().code == errc::invalid_argument));
  BOOST_TEST((random_tensors::make({{"a", {8}}, {"a", {8}}}, dtype::f32, "x").error().code == errc::invalid_argument));
  BOOST_TEST((random_tensors::make({{"a", {1u << 31, 1u << 17}}}, dtype::f32, "x").error().code == errc::out_of_memory));
  BOOST_TEST(random_tensors::make({}, dtype::bf16, "x").value()->tensors().empty());
}
