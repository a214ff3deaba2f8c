#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/common/philox.hpp"
#include "kernels/cpu/vector.hpp"

using namespace troupe::kernels::cpu;

namespace {

std::vector<float> normal(std::size_t n, std::mt19937& random, float spread = 1.0f) {
  std::normal_distribution<float> d(0.0f, spread);
  std::vector<float> x(n);
  for (float& e : x) e = d(random);
  return x;
}
std::vector<isa> tiers() {
  std::vector<isa> out;
  for (isa t : {isa::scalar, isa::avx2, isa::avx512})
    if (isa_supported(t)) out.push_back(t);
  return out;
}
bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}
constexpr std::size_t sizes[] = {1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 576, 1000, 4096, 4097};

}  // namespace

BOOST_AUTO_TEST_CASE(vector_kernels_agree_with_double) {
  std::mt19937 random(1);
  const auto& k = vector_kernels_for(best_isa());
  for (std::size_t n : sizes) {
    const auto x = normal(n, random), w = normal(n, random), g = normal(n, random, 20.0f);
    std::vector<float> y(n);
    k.rms_norm(x.data(), w.data(), 1e-5f, n, y.data());
    double squares = 0;
    for (float e : x) squares += static_cast<double>(e) * e;
    for (std::size_t i = 0; i < n; ++i) {
      const double want = x[i] / std::sqrt(squares / static_cast<double>(n) + 1e-5) * w[i];
      BOOST_TEST_REQUIRE(std::abs(y[i] - want) <= 1e-6 * std::abs(want));
    }
    k.swiglu(g.data(), x.data(), n, y.data());
    for (std::size_t i = 0; i < n; ++i) {
      const double want = g[i] / (1 + std::exp(-static_cast<double>(g[i]))) * x[i];
      BOOST_TEST_REQUIRE(std::abs(y[i] - want) <= 1e-6 * std::abs(want) + 1e-34);
    }
    y = x;
    k.add(y.data(), w.data(), n);
    for (std::size_t i = 0; i < n; ++i) BOOST_TEST_REQUIRE(y[i] == x[i] + w[i]);
    double total = 0;
    for (float e : g) total += std::exp((static_cast<double>(e) - 30) * 0.5);
    BOOST_TEST_REQUIRE(std::abs(k.exp_sum(g.data(), n, 30.0f, 0.5f) - total) <= 1e-6 * total);
    k.exp_scaled(g.data(), n, 30.0f, 0.5f, y.data());
    for (std::size_t i = 0; i < n; ++i) {
      const double want = std::exp((static_cast<double>(g[i]) - 30.0) * 0.5);
      BOOST_TEST_REQUIRE(std::abs(y[i] - want) <= 2e-6 * want + 1e-37);
    }
    std::vector<std::uint32_t> hits(n);
    std::size_t above = 0;
    for (float e : x) above += e >= 0.25f;
    BOOST_TEST_REQUIRE(k.select_at_least(x.data(), n, 0.25f, hits.data(), n) == above);
    for (std::size_t i = 0; i < above; ++i) BOOST_TEST_REQUIRE(x[hits[i]] >= 0.25f);
  }
}

BOOST_AUTO_TEST_CASE(exponential_keeps_its_edges) {
  for (isa tier : tiers()) {
    const float x[] = {0.0f, -0.0f, -86.9f, -88.0f, -INFINITY, -1e30f, NAN, 1.0f};
    float y[8];
    vector_kernels_for(tier).exp_scaled(x, 8, 0.0f, 1.0f, y);
    BOOST_TEST(y[0] == 1.0f);
    BOOST_TEST(y[1] == 1.0f);
    BOOST_TEST(y[2] > 0.0f);
    BOOST_TEST(y[3] == 0.0f);
    BOOST_TEST(y[4] == 0.0f);
    BOOST_TEST(y[5] == 0.0f);
    BOOST_TEST(std::isnan(y[6]));
    BOOST_TEST(std::abs(y[7] - 2.7182818f) < 1e-6f);
  }
}

BOOST_AUTO_TEST_CASE(rope_turns_pairs_by_the_angle) {
  std::mt19937 random(2);
  for (std::uint32_t dim : {8u, 24u, 64u, 80u, 128u})
    for (bool interleaved : {false, true})
      for (std::uint32_t position : {0u, 1u, 77u, 8191u, 131071u}) {
        const std::uint32_t head = dim + 16;
        std::vector<double> inverse(dim / 2);
        for (std::uint32_t i = 0; i < dim / 2; ++i) inverse[i] = std::pow(10000.0, -2.0 * i / dim);
        std::vector<float> table(2 * dim);
        rope_row(inverse.data(), dim, interleaved, position, 1.25, table.data());
        const auto x = normal(2 * head, random);
        auto y = x;
        vector_kernels_for(best_isa()).rope(y.data(), 2, head, dim, interleaved, table.data());
        for (std::uint32_t h = 0; h < 2; ++h)
          for (std::uint32_t i = 0; i < head; ++i) {
            const std::size_t at = h * head + i;
            if (i >= dim) {
              BOOST_TEST_REQUIRE(y[at] == x[at]);
              continue;
            }
            const std::uint32_t pair = interleaved ? i / 2 : i % (dim / 2);
            const bool is_first = interleaved ? i % 2 == 0 : i < dim / 2;
            const std::uint32_t partner = interleaved ? i ^ 1u : (is_first ? i + dim / 2 : i - dim / 2);
            const double angle = position * inverse[pair];
            BOOST_TEST_REQUIRE(std::abs(table[i] - 1.25 * std::cos(angle)) <= 1e-6);
            const double want = 1.25 * (x[at] * std::cos(angle) +
                                        (is_first ? -1 : 1) * x[h * head + partner] * std::sin(angle));
            BOOST_TEST_REQUIRE(std::abs(y[at] - want) <= 2e-6);
          }
      }
}

BOOST_AUTO_TEST_CASE(vector_kernels_have_the_same_bits_on_every_tier) {
  std::mt19937 random(3);
  for (std::size_t n : sizes) {
    const auto x = normal(n, random, 8.0f), w = normal(n, random);
    std::vector<float> first;
    for (isa tier : tiers()) {
      const auto& k = vector_kernels_for(tier);
      std::vector<float> all(n);
      k.rms_norm(x.data(), w.data(), 1e-5f, n, all.data());
      std::vector<float> y(n);
      k.swiglu(x.data(), w.data(), n, y.data());
      all.insert(all.end(), y.begin(), y.end());
      k.exp_scaled(x.data(), n, 20.0f, 0.7f, y.data());
      all.insert(all.end(), y.begin(), y.end());
      all.push_back(static_cast<float>(k.exp_sum(x.data(), n, 20.0f, 0.7f)));
      const extreme top = k.argmax(x.data(), n), drawn = k.gumbel_argmax(x.data(), n, top.value, 1.3f, {42, 1, 7});
      for (const extreme& e : {top, drawn}) {
        all.push_back(e.value);
        all.push_back(static_cast<float>(e.index));
      }
      if (n % 8 == 0) {
        std::vector<float> table(16);
        const double inverse[4] = {1.0, 0.1, 0.01, 0.001};
        for (bool interleaved : {false, true}) {
          rope_row(inverse, 8, interleaved, 1234, 1.0, table.data());
          auto z = x;
          k.rope(z.data(), static_cast<std::uint32_t>(n / 8), 8, 8, interleaved, table.data());
          all.insert(all.end(), z.begin(), z.end());
        }
      }
      if (first.empty()) first = all;
      BOOST_TEST(same(first, all), name(tier) << " n " << n);
    }
  }
}

BOOST_AUTO_TEST_CASE(vector_noise_is_the_noise_of_philox) {
  std::mt19937 random(4);
  for (isa tier : tiers())
    for (std::size_t n : {1, 3, 64, 65, 1000}) {
      const draw_key key{0x123456789abcdefull, 3, 17};
      for (int round = 0; round < 20; ++round) {
        const auto x = normal(n, random);
        const extreme top = vector_kernels_for(tier).argmax(x.data(), n);
        float best = -INFINITY;
        std::uint32_t index = 0;
        for (std::uint32_t i = 0; i < n; ++i) {
          const float score = (x[i] - top.value) * 0.5f +
                              troupe::kernels::draw_gumbel(key.seed, key.choice, key.position, i);
          if (score > best) best = score, index = i;
        }
        const extreme got = vector_kernels_for(tier).gumbel_argmax(x.data(), n, top.value, 0.5f, key);
        BOOST_TEST_REQUIRE(got.index == index);
        BOOST_TEST_REQUIRE(got.value == best);
      }
    }
}
