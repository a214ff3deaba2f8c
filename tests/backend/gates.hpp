#pragma once
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

#include "src/model/token_mask.hpp"
#include "tests/backend/crowd.hpp"

/// Rows whose sampling waits for a mask, on any backend. `make_driver(masks, patience)` gives a backend_driver with at
/// least 8 slots, 100 tokens a step, and 2 plans in flight where the backend can; with graphs, steps run in them too.
namespace troupe::test {

class test_masks final : public model::mask_table {
 public:
  std::shared_ptr<const model::token_mask> find(std::uint32_t gate) override {
    std::lock_guard lock(mutex_);
    const auto it = masks_.find(gate);
    return it == masks_.end() ? nullptr : it->second;
  }
  /// A mask that nobody has computed yet.
  std::shared_ptr<model::token_mask> add(std::uint32_t gate, std::uint32_t vocab) {
    std::lock_guard lock(mutex_);
    return masks_[gate] = std::make_shared<model::token_mask>(vocab);
  }

 private:
  std::mutex mutex_;
  std::map<std::uint32_t, std::shared_ptr<model::token_mask>> masks_;
};

using token_set = std::vector<bool>;

inline void fill(model::token_mask& m, const token_set& allowed) {
  // Bits beyond the vocabulary are set: they must mean nothing.
  for (std::uint32_t t = 0; t < m.words().size() * 32; ++t)
    if (t >= allowed.size() || allowed[t]) m.allow(t);
}

inline token_set random_set(std::uint32_t vocab, unsigned one_in, std::mt19937& random) {
  token_set s(vocab);
  for (std::uint32_t t = 0; t < vocab; ++t) s[t] = random() % one_in == 0;
  s[random() % vocab] = true;
  return s;
}

/// One of every way of drawing.
inline std::vector<sampling_params> ways_of_drawing() {
  std::vector<sampling_params> out(8);
  for (std::size_t i = 0; i < out.size(); ++i) out[i].seed = 100 + i;
  out[0].temperature = 0;
  out[1].temperature = 0.9f;
  out[2].top_k = 7;
  out[3].top_p = 0.8f;
  out[4].min_p = 0.05f;
  out[5].temperature = 0.7f, out[5].repetition_penalty = 1.3f, out[5].frequency_penalty = 0.2f;
  out[6].temperature = 1.4f, out[6].top_k = 100, out[6].top_p = 0.9f;
  out[7].temperature = 0, out[7].presence_penalty = 0.5f, out[7].logit_bias = {{5, 3.0f}, {9, -2.0f}};
  return out;
}

/// Draws n tokens for each way of drawing at once, a slot for each. Where `allowed(slot, i)` gives a set, that draw is
/// gated by it, and its mask comes `late` after the launch.
template <class Driver>
std::vector<std::vector<drawn>> draw_all(Driver& d, test_masks* masks, const std::vector<sampling_params>& ways,
                                         std::size_t n,
                                         const std::function<std::optional<token_set>(slot_id, std::size_t)>& allowed,
                                         std::chrono::milliseconds late = {}) {
  const std::uint32_t vocab = d.backend->shape().vocab;
  const bool graphs = !d.backend->shape().graph_sizes.empty();
  std::mt19937 random(3);
  std::vector<std::vector<drawn>> out(ways.size());
  std::uint32_t gate = 0;
  for (std::size_t i = 0; i < n; ++i) {
    std::vector<std::pair<std::shared_ptr<model::token_mask>, token_set>> to_come;
    for (slot_id s = 0; s < ways.size(); ++s) {
      if (i == 0) {
        const auto prompt = random_ids(3 + s, vocab, random);
        d.admit(s, ways[s], prompt);
        d.chunk(s, 0, prompt, model::row_output::sample_logprobs);
      } else {
        d.decode(s, 3 + s + static_cast<std::uint32_t>(i) - 1);
        d.plan.rows.back().output = model::row_output::sample_logprobs;
      }
      const auto set = allowed(s, i);
      if (!set) continue;
      d.gate(++gate);
      to_come.emplace_back(masks->add(gate, vocab), *set);
    }
    if (i > 0 && graphs) d.plan.graph = {8, 8, 0};
    const auto arrive = [&to_come, late] {
      std::this_thread::sleep_for(late);
      for (auto& [mask, set] : to_come) fill(*mask, set), mask->set_ready();
    };
    std::optional<std::jthread> other;
    if (late.count())
      other.emplace(arrive);
    else
      arrive();
    d.step();
    for (const auto& r : d.done().rows) out[r.slot].push_back({r.token, r.flags, r.logprob});
  }
  for (slot_id s = 0; s < ways.size(); ++s) d.release(s);
  d.step();
  return out;
}

template <class MakeDriver>
void check_gates(MakeDriver&& make_driver) {
  using namespace std::chrono_literals;
  const auto masks = std::make_shared<test_masks>();
  auto d = make_driver(masks, 10'000ms);
  const std::uint32_t vocab = d.backend->shape().vocab;
  if (!d.backend->shape().graph_sizes.empty()) d.warm_up(8);
  const auto ways = ways_of_drawing();
  constexpr std::size_t n = 12;
  const auto none = [](slot_id, std::size_t) { return std::optional<token_set>(); };
  const auto ungated = draw_all(d, masks.get(), ways, n, none);
  for (const auto& row : ungated)
    for (const drawn& x : row) BOOST_TEST_REQUIRE(x.flags == 0u);

  const auto all = [&](slot_id, std::size_t) { return std::optional(token_set(vocab, true)); };
  BOOST_TEST_CONTEXT("a mask of ones changes nothing, bit for bit") {
    BOOST_TEST((draw_all(d, masks.get(), ways, n, all) == ungated));
    BOOST_TEST((draw_all(d, masks.get(), ways, n, all, 3ms) == ungated));
    const auto some = [&](slot_id s, std::size_t i) { return (s + i) % 3 ? all(s, i) : std::nullopt; };
    BOOST_TEST((draw_all(d, masks.get(), ways, n, some, 3ms) == ungated));
  }

  // Without biases of its own (7), a masked row draws what it draws when all else is biased out of sight.
  for (const unsigned one_in : {2u, 20u, 400u}) {
    std::mt19937 random(one_in);
    std::vector<token_set> sets;
    std::vector<sampling_params> biased = ways_of_drawing();
    for (slot_id s = 0; s < ways.size(); ++s) {
      sets.push_back(random_set(vocab, one_in, random));
      if (!biased[s].logit_bias.empty()) continue;
      for (std::uint32_t t = 0; t < vocab; ++t)
        if (!sets[s][t]) biased[s].logit_bias.push_back({static_cast<token_id>(t), -1e30f});
    }
    const auto same_set = [&](slot_id s, std::size_t) { return std::optional(sets[s]); };
    const auto want = draw_all(d, masks.get(), biased, n, none);
    for (const auto late : {0ms, 5ms}) {
      const auto got = draw_all(d, masks.get(), ways, n, same_set, late);
      for (slot_id s = 0; s < ways.size(); ++s)
        BOOST_TEST_CONTEXT("one in " << one_in << ", late by " << late.count() << " ms, slot " << s) {
          for (const drawn& x : got[s]) BOOST_TEST((x.flags == 0u && sets[s][static_cast<std::size_t>(x.token)]));
          if (ways[s].logit_bias.empty()) BOOST_TEST(got[s] == want[s], boost::test_tools::per_element());
        }
    }
  }
}

/// Rows that get no mask or one that allows nothing, beside rows that do.
template <class MakeDriver>
void check_gates_that_fail(MakeDriver&& make_driver) {
  using namespace std::chrono_literals;
  using clock = std::chrono::steady_clock;
  const auto masks = std::make_shared<test_masks>();
  const auto ways = ways_of_drawing();
  constexpr std::uint32_t never = 90, unknown = 91, given_up = 92, nothing = 93, everything = 94;
  std::vector<drawn> want;
  const auto run = [&](auto& d, std::vector<std::pair<slot_id, std::uint32_t>> gates) {
    const std::uint32_t vocab = d.backend->shape().vocab;
    masks->add(never, vocab);
    masks->add(given_up, vocab)->give_up();
    masks->add(nothing, vocab)->set_ready();
    fill(*masks->add(everything, vocab), token_set(vocab, true));
    std::const_pointer_cast<model::token_mask>(masks->find(everything))->set_ready();
    std::mt19937 random(4);
    for (slot_id s = 0; s < ways.size(); ++s) {
      const auto prompt = random_ids(5, vocab, random);
      d.admit(s, ways[s], prompt);
      d.chunk(s, 0, prompt, model::row_output::sample_logprobs);
      for (const auto& [slot, gate] : gates)
        if (slot == s) d.gate(gate);
    }
    const auto before = clock::now();
    d.step();
    const auto took = clock::now() - before;
    std::vector<drawn> out(ways.size());
    for (const auto& r : d.done().rows) out[r.slot] = {r.token, r.flags, r.logprob};
    for (slot_id s = 0; s < ways.size(); ++s) d.release(s);
    d.step();
    return std::pair{out, took};
  };
  auto d = make_driver(masks, 60'000ms);
  want = run(d, {}).first;
  {
    const auto [got, took] = run(d, {{0, given_up}, {1, nothing}, {2, everything}, {3, unknown}});
    BOOST_TEST(got[0].flags == model::row_gate_closed);
    BOOST_TEST(got[1].flags == model::row_nothing_allowed);
    BOOST_TEST(got[3].flags == model::row_gate_closed);
    for (slot_id s : {2u, 4u, 5u, 6u, 7u}) BOOST_TEST(got[s] == want[s], "slot " << s);
    BOOST_TEST((took < 30s));  // nobody waited for what will not come
  }
  // A mask that never comes costs its row no more than the step's patience, and the slot can be used again.
  auto hasty = make_driver(masks, 80ms);
  for (int round = 0; round < 3; ++round) {
    const auto [got, took] = run(hasty, {{0, never}, {5, never}, {6, everything}});
    for (slot_id s : {0u, 5u}) BOOST_TEST(got[s].flags == model::row_gate_closed);
    for (slot_id s : {1u, 2u, 3u, 4u, 6u, 7u}) BOOST_TEST(got[s] == want[s], "slot " << s);
    BOOST_TEST((took >= 70ms));
    BOOST_TEST((took < 30s));
  }
}

/// Launches that wait for the device while a step there waits for a mask, and plans in flight whose masks come in turn.
template <class MakeDriver>
void check_gates_in_flight(MakeDriver&& make_driver) {
  using namespace std::chrono_literals;
  const auto masks = std::make_shared<test_masks>();
  auto d = make_driver(masks, 10'000ms);
  const model::rank_shape& shape = d.backend->shape();
  std::mt19937 random(6);
  const auto prompt = random_ids(9, shape.vocab, random);
  sampling_params p;
  p.seed = 8;
  const auto want = d.generate(prompt, 6, p);

  const auto later = [&](std::uint32_t gate, std::chrono::milliseconds when) {
    return std::jthread([mask = masks->add(gate, shape.vocab), when, n = shape.vocab] {
      std::this_thread::sleep_for(when);
      fill(*mask, token_set(n, true));
      mask->set_ready();
    });
  };
  std::vector<token_id> got;
  d.admit(0, p, prompt);
  d.admit(1, {});
  d.chunk(0, 0, prompt, model::row_output::sample);
  d.gate(1);
  d.chunk(1, 0, prompt, model::row_output::logits);  // on a device its launch waits
  {
    const auto thread = later(1, 20ms);
    got.push_back(d.step().at(0));
  }
  BOOST_TEST(d.sinks->at(1)->rows.size() == prompt.size());
  if (shape.depth >= 2) {
    const auto expect = [&](std::uint32_t i) {
      d.decode(0, static_cast<std::uint32_t>(prompt.size()) + i - 1);
      d.gate(1 + i);
    };
    // The second plan is launched before the first has its mask, and gets its own when the first one's token is known.
    auto second = masks->add(3, shape.vocab);
    expect(1);
    auto first = masks->add(2, shape.vocab);
    d.launch();
    expect(2);
    d.launch();
    fill(*first, token_set(shape.vocab, true));
    first->set_ready();
    got.push_back(d.finish().at(0));
    token_set only(shape.vocab);
    only[static_cast<std::size_t>(want[2])] = true;
    fill(*second, only);
    second->set_ready();
    got.push_back(d.finish().at(0));
    {  // admissions that do not fit the staging memory make a launch wait
      const auto thread = later(4, 30ms);
      expect(3);
      d.launch();
      sampling_params penalized;
      penalized.repetition_penalty = 1.2f;
      const std::vector<std::int32_t> long_history(shape.max_model_len, prompt.front());
      for (slot_id s : {2u, 3u}) d.admit(s, penalized, long_history);
      d.launch();
      got.push_back(d.finish().at(0));
      d.finish();
    }
    if (!shape.graph_sizes.empty()) {
      const auto thread = later(5, 30ms);
      expect(4);
      d.launch();
      d.launch_warm_up(4);
      got.push_back(d.finish().at(0));
      d.finish();
    }
  }
  BOOST_TEST(got == std::vector(want.begin(), want.begin() + static_cast<std::ptrdiff_t>(got.size())),
             boost::test_tools::per_element());
  // A step in flight whose mask never comes does not hold up its backend's destruction.
  masks->add(77, shape.vocab);
  d.decode(0, static_cast<std::uint32_t>(prompt.size() + got.size()) - 1);
  d.gate(77);
  d.launch();
  const auto before = std::chrono::steady_clock::now();
  d.backend.reset();
  BOOST_TEST((std::chrono::steady_clock::now() - before < 5s));
}

}  // namespace troupe::test
