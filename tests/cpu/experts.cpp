#include <cmath>
#include <numeric>
#include <random>

#include "src/cpu/expert_routing.hpp"
#include "tests/backend/crowd.hpp"
#include "tests/cpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;

BOOST_AUTO_TEST_SUITE(experts)

BOOST_AUTO_TEST_CASE(tokens_go_to_the_experts_that_the_router_likes_best) {
  std::mt19937 random(31);
  std::normal_distribution<float> normal;
  const auto& vector = kernels::cpu::vector_kernels_for(kernels::cpu::best_isa());
  for (const auto& [n_experts, n_used] : {std::pair{1u, 1u}, {4u, 2u}, {8u, 8u}, {60u, 4u}, {128u, 8u}}) {
    constexpr std::uint32_t most = 70;
    for (const auto& [n, renormalized] : {std::pair{1u, true}, {2u, false}, {70u, true}, {70u, false}}) {
      cpu::expert_routing routing(n_experts, n_used, renormalized, most);
      std::vector<float> logits(std::size_t{n} * n_experts);
      for (float& x : logits) x = random() % 4 ? normal(random) : 1.0f;  // with equals
      routing.route(logits.data(), n, vector);
      BOOST_TEST(routing.n_rows() == n * n_used);
      std::vector<std::uint32_t> seen(n * n_used);
      for (std::uint32_t t = 0; t < n; ++t) {
        const float* const own = logits.data() + std::size_t{t} * n_experts;
        std::vector<std::uint32_t> want(n_experts);
        std::iota(want.begin(), want.end(), 0u);
        std::sort(want.begin(), want.end(), [&](auto a, auto b) { return own[a] != own[b] ? own[a] > own[b] : a < b; });
        want.resize(n_used);
        std::sort(want.begin(), want.end());
        double total = 0;
        if (renormalized)
          for (std::uint32_t e : want) total += std::exp(double{own[e]});
        else
          for (std::uint32_t e = 0; e < n_experts; ++e) total += std::exp(double{own[e]});
        for (std::uint32_t j = 0; j < n_used; ++j) {
          const std::uint32_t row = routing.rows(t)[j], e = want[j];
          BOOST_TEST_REQUIRE((row >= routing.first(e) && row < routing.first(e) + routing.count(e)));
          BOOST_TEST(routing.token(row) == t);
          BOOST_TEST(std::abs(routing.weights(t)[j] - std::exp(double{own[e]}) / total) < 1e-6);
          ++seen[row];
        }
      }
      BOOST_TEST((seen == std::vector<std::uint32_t>(n * n_used, 1)));
      // Parts of any division are all rows, and an expert's are in its order.
      std::uint32_t covered = 0;
      for (std::uint32_t begin = 0; begin < n * n_used; begin += 8)
        routing.for_parts(begin, std::min(begin + 8, n * n_used),
                          [&](std::uint32_t e, std::uint32_t a, std::uint32_t b) {
                            BOOST_TEST(routing.first(e) + a == covered);
                            covered += b - a;
                          });
      BOOST_TEST(covered == n * n_used);
      for (std::uint32_t row = 1; row < n * n_used; ++row)
        for (std::uint32_t e : routing.active())
          if (row > routing.first(e) && row < routing.first(e) + routing.count(e))
            BOOST_TEST(routing.token(row - 1) < routing.token(row));
    }
  }
  // What is not a number is nobody's choice, and disturbs no other token.
  cpu::expert_routing routing(3, 1, true, 2);
  const float logits[] = {NAN, -1e30f, NAN, 0, 1, 0};
  routing.route(logits, 2, vector);
  BOOST_TEST((routing.token(routing.first(1)) == 0u && routing.count(1) == 2u));
}

// Quantized experts: the plain path over the same weights is what the fast one is near to.
BOOST_AUTO_TEST_CASE(quantized_experts_are_near_the_plain_path) {
  auto m = model::open_model(data("mixtral/model-Q8_0.gguf")).value();
  cpu::cpu_options o;
  o.max_slots = 4;
  o.max_batched_tokens = 256;
  o.n_pages = 64;
  o.threads = 2;
  std::mt19937 random(32);
  const auto ids = random_ids(130, m->config.vocab, random);
  const auto fast = driver(m, o).logits(ids, 1000);
  o.reference = true;
  const auto plain = driver(m, o).logits(ids, 1000);
  double difference = 0, norm = 0;
  for (std::size_t t = 0; t < plain.size(); ++t)
    for (std::size_t i = 0; i < plain[t].size(); ++i) {
      difference += std::pow(double{fast[t][i]} - double{plain[t][i]}, 2);
      norm += std::pow(double{plain[t][i]}, 2);
    }
  BOOST_TEST_MESSAGE("relative difference " << std::sqrt(difference / norm));
  BOOST_TEST(std::sqrt(difference / norm) < 1e-3);
}

BOOST_AUTO_TEST_SUITE_END()
