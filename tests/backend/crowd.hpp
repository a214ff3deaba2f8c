#pragma once
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstring>
#include <ostream>
#include <random>
#include <span>

#include "tests/backend/driver.hpp"
#include "tests/simt/emulated.hpp"

/// One sequence among others: what determinism is tested with, on any backend of 33 slots and 300 tokens a step.
namespace troupe::test {

using rows = std::vector<std::vector<float>>;

inline std::vector<token_id> random_ids(std::size_t n, std::uint32_t vocab, std::mt19937& random) {
  std::vector<token_id> ids(n);
  for (token_id& t : ids) t = static_cast<token_id>(random() % vocab);
  return ids;
}

inline bool same(const rows& a, const rows& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(float)) != 0) return false;
  return true;
}

/// Some sequences, once by eager steps and once by captured ones of `size` rows, draw the same tokens.
inline void check_graphs(backend_driver& d, std::uint32_t vocab, slot_id n = 7, std::uint32_t size = 8) {
  d.warm_up(size);  // before either: it also chooses the products' kernels
  std::vector<std::vector<token_id>> tokens[2];
  for (const bool graphs : {false, true}) {
    std::mt19937 random(5);
    for (slot_id s = 0; s < n; ++s) {
      sampling_params p;
      p.seed = s;
      p.temperature = s % 2 ? 0.8f : 0.0f;
      if (s == 3) p.top_p = 0.8f, p.repetition_penalty = 1.2f;
      if (graphs) d.release(s);
      d.admit(s, p, random_ids(3, vocab, random));
      d.chunk(s, 0, random_ids(20 + s, vocab, random), model::row_output::sample);
    }
    tokens[graphs].resize(n);
    for (auto [slot, token] : d.step()) tokens[graphs][slot].push_back(token);
    for (std::uint32_t i = 0; i < (emulated ? 6u : 40u); ++i) {
      for (slot_id s = 0; s < n; ++s) d.decode(s, 20 + s + i);
      if (graphs) d.plan.graph = {size, size, 0};
      for (auto [slot, token] : d.step()) tokens[graphs][slot].push_back(token);
    }
  }
  BOOST_TEST(tokens[0] == tokens[1]);
}

/// The logits of `ids` in slot 0, fed in random chunks while other slots prefill and decode around it.
inline rows in_a_crowd(backend_driver& d, std::span<const token_id> ids, std::mt19937& random, std::uint32_t vocab) {
  constexpr slot_id others = emulated ? 9 : 31;
  d.sinks->forget(0);
  d.admit(0, {});
  std::vector<std::uint32_t> length(others + 1, 0);
  for (std::size_t at = 0; at < ids.size();) {
    std::uint32_t budget = 200;
    for (slot_id s = 1; s <= others; ++s) {
      if (length[s] == 0) {
        if (random() % 4) continue;
        const auto n = static_cast<std::uint32_t>(1 + random() % 40);
        if (n > budget) continue;
        budget -= n;
        sampling_params p;
        p.seed = s;
        d.admit(s, p);
        d.chunk(s, 0, random_ids(n, vocab, random), model::row_output::sample);
        length[s] = n;
      } else if (random() % 10) {
        d.decode(s, length[s]++);
      } else {
        d.release(s);
        length[s] = 0;
        sampling_params p;
        d.admit(s, p);
        d.chunk(s, 0, random_ids(3, vocab, random), model::row_output::sample);
        length[s] = 3;
      }
    }
    const std::size_t n = std::min<std::size_t>(ids.size() - at, 1 + random() % 50);
    d.chunk(0, static_cast<std::uint32_t>(at), ids.subspan(at, n), model::row_output::logits);
    at += n;
    d.step();
  }
  for (slot_id s = 0; s <= others; ++s)
    if (s == 0 || length[s]) d.release(s);
  d.step();
  rows out;
  for (auto& [position, row] : d.sinks->at(0)->rows) out.push_back(row);
  return out;
}

/// What a row drew, down to the bits of its logprob.
struct drawn {
  token_id token;
  std::uint32_t flags;
  float logprob;
  bool operator==(const drawn& o) const {
    return token == o.token && flags == o.flags && std::memcmp(&logprob, &o.logprob, sizeof logprob) == 0;
  }
};
inline std::ostream& operator<<(std::ostream& out, const drawn& d) {
  return out << d.token << "/" << d.flags << "/" << d.logprob;
}

struct drawing_sequence {
  std::vector<token_id> prompt;
  sampling_params sampling;
};

/// One of every way of drawing, and then again with other prompts.
inline std::vector<drawing_sequence> drawing_sequences(std::size_t n, std::uint32_t vocab, std::mt19937& random) {
  std::vector<drawing_sequence> out;
  for (std::size_t s = 0; s < n; ++s) {
    sampling_params p;
    p.seed = 1000 + s;
    p.temperature = s % 3 == 0 ? 0.0f : 0.9f;
    if (s % 4 == 1) p.top_p = 0.9f;
    if (s % 5 == 1) p.repetition_penalty = 1.3f, p.frequency_penalty = 0.2f;
    if (s % 7 == 1) p.logit_bias = {{5, 3.0f}};
    out.push_back({random_ids(1 + random() % 60, vocab, random), p});
  }
  return out;
}

struct crowd_result {
  std::vector<std::vector<drawn>> rows;
  std::size_t preemptions = 0;
};

/// Draws n_tokens for each of at most 33 sequences, a slot for each. Each step takes a random part of them. Where
/// `preempts`, sequences now and then lose their pages, which others then write, and are computed again from prompt and
/// output, in chunks.
inline crowd_result draw_together(backend_driver& d, std::span<const drawing_sequence> sequences, std::size_t n_tokens,
                                  std::mt19937& random, bool preempts) {
  struct state {
    bool bound = false;
    bool drew = false;           // since it was bound: the slot holds the last token
    std::uint32_t computed = 0;  // positions
    std::vector<token_id> tokens;
  };
  crowd_result out;
  out.rows.resize(sequences.size());
  std::vector<state> states(sequences.size());
  for (std::size_t i = 0; i < sequences.size(); ++i) states[i].tokens = sequences[i].prompt;
  const auto done = [&](slot_id s) { return out.rows[s].size() == n_tokens; };
  for (bool busy = true; busy;) {
    busy = false;
    std::uint32_t budget = 300;
    for (slot_id s = 0; s < sequences.size(); ++s) {
      state& x = states[s];
      if (done(s)) continue;
      busy = true;
      if (preempts && x.bound && random() % (emulated ? 5 : 30) == 0) {
        d.release(s);
        x = {false, false, 0, std::move(x.tokens)};
        ++out.preemptions;
        if (random() % 2) continue;  // others take its pages first
      }
      if (budget == 0 || (sequences.size() > 1 && random() % 5 == 0)) continue;
      if (!x.bound) {
        d.admit(s, sequences[s].sampling, x.tokens);
        d.plan.admits.back().prompt_length = static_cast<std::uint32_t>(sequences[s].prompt.size());
        x.bound = true;
      }
      const auto left = static_cast<std::uint32_t>(x.tokens.size()) - x.computed;
      if (x.drew) {
        d.decode(s, x.computed);
        --budget;
      } else {
        const std::uint32_t n =
            std::min({left, budget, preempts ? 1 + static_cast<std::uint32_t>(random() % 40) : left});
        d.chunk(s, x.computed, std::span(x.tokens).subspan(x.computed, n),
                n == left ? model::row_output::sample : model::row_output::none);
        budget -= n;
        x.computed += n - 1;
      }
      ++x.computed;
      if (d.plan.rows.back().output == model::row_output::sample)
        d.plan.rows.back().output = model::row_output::sample_logprobs;
    }
    d.step();
    for (const auto& r : d.done().rows) {
      out.rows[r.slot].push_back({r.token, r.flags, r.logprob});
      states[r.slot].tokens.push_back(r.token);
      states[r.slot].drew = true;
    }
  }
  for (slot_id s = 0; s < sequences.size(); ++s)
    if (states[s].bound) d.release(s);
  d.step();
  return out;
}

/// Everybody draws alone what they draw in a crowd that preempts, bit for bit. `make_driver()`: 33 slots, 300 tokens a
/// step.
template <class MakeDriver>
void check_preempted(MakeDriver&& make_driver, unsigned seed) {
  constexpr std::size_t n_sequences = emulated ? 6 : 32, n_tokens = emulated ? 8 : 40;
  std::mt19937 random(seed);
  auto one = make_driver();
  const auto sequences = drawing_sequences(n_sequences, one.backend->shape().vocab, random);
  auto many = make_driver();
  many.shuffle_pages(random);
  const crowd_result together = draw_together(many, sequences, n_tokens, random, true);
  BOOST_TEST(together.preemptions > n_sequences);
  for (std::size_t s = 0; s < n_sequences; ++s) {
    const crowd_result alone = draw_together(one, std::span(sequences).subspan(s, 1), n_tokens, random, false);
    for (const drawn& x : alone.rows[0]) BOOST_TEST_REQUIRE(x.flags == 0u);
    BOOST_TEST(together.rows[s] == alone.rows[0], boost::test_tools::per_element());
  }
}

}  // namespace troupe::test
