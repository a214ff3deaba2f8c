#include <boost/test/unit_test.hpp>
#include <cstring>
#include <random>

#include "src/model/step_plan.hpp"

using namespace troupe;
using namespace troupe::model;

namespace {
std::shared_ptr<const step_plan> sample_plan() {
  plan_builder b;
  b.releases = {3, 4};
  sampling_params p;
  p.temperature = 0.5f;
  p.logit_bias = {{7, -1.0f}, {9, 2.0f}};
  slot_admit& a = b.admit(1, p, 42);
  a.history_offset = 0;
  a.history_count = 2;
  b.tokens = {10, 11, 12};
  b.deltas = {{1, 0, 0, 5}};
  b.forks = {{0, 5, 6, 3}};
  plan_row r{};
  r.slot = 1;
  r.kind = row_kind::chunk;
  r.output = row_output::sample;
  r.n_tokens = 3;
  b.rows = {r};
  return b.build(17);
}
}  // namespace

BOOST_AUTO_TEST_CASE(what_is_built_is_read_back) {
  auto plan = sample_plan();
  auto view = step_plan_view::parse(plan->bytes()).value();
  BOOST_TEST(view.seq() == 17u);
  BOOST_TEST(view.n_tokens() == 3u);
  BOOST_TEST(view.releases().size() == 2u);
  BOOST_TEST(view.releases()[1] == 4u);
  BOOST_TEST(view.admits()[0].seed == 42u);
  BOOST_TEST(view.biases()[view.admits()[0].bias_offset + 1].token == 9);
  BOOST_TEST(view.deltas()[0].page == 5u);
  BOOST_TEST(view.forks()[0].to == 6u);
  BOOST_TEST(view.tokens_of(view.rows()[0])[2] == 12);
}

BOOST_AUTO_TEST_CASE(a_plan_may_lie_anywhere) {
  auto plan = sample_plan();
  std::vector<std::uint64_t> moved((plan->bytes().size() + 7) / 8 + 1);
  auto* at = reinterpret_cast<std::byte*>(moved.data() + 1);
  std::memcpy(at, plan->bytes().data(), plan->bytes().size());
  BOOST_TEST(step_plan_view::parse({at, plan->bytes().size()}).value().rows()[0].slot == 1u);
}

BOOST_AUTO_TEST_CASE(damaged_bytes_are_refused_or_stay_in_bounds) {
  auto plan = sample_plan();
  std::mt19937 random(1);
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> bytes(plan->bytes().begin(), plan->bytes().end());
    for (int k = 0; k < 3; ++k) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    if (round % 7 == 0) bytes.resize(random() % bytes.size());
    auto view = step_plan_view::parse(bytes);
    if (!view) continue;
    std::int64_t sum = 0;
    for (const auto& r : view->rows())
      if (r.input == row_input::literal)
        for (token_id t : view->tokens_of(r)) sum += t;
    BOOST_TEST((sum == sum));
  }
}
