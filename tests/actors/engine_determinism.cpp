// The same request gives the same tokens and the same logits, bit for bit, whatever runs beside it and however the engine
// is set up; and an engine answers rightly with any number of text threads.
#include <boost/test/unit_test.hpp>
#include <cstring>

#include "tests/actors/client.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

struct recorded final : logits_sink {
  std::vector<float> all;
  void on_logits(std::uint32_t position, std::span<const float> logits) override {
    if (position * logits.size() != all.size()) in_order = false;
    all.insert(all.end(), logits.begin(), logits.end());
  }
  bool in_order = true;
};

/// What is asked everywhere: greedy, seeded, filtered, penalized; short and long prompts.
std::vector<request> questions() {
  std::vector<request> out;
  out.push_back(tokens_request(0, 70, 60));
  out.push_back(tokens_request(1, 5, 90));
  request r = tokens_request(2, 33, 60);
  r.sampling.temperature = 0.8f;
  r.sampling.seed = 5;
  out.push_back(r);
  r.sampling.top_p = 0.9f;
  r.sampling.top_k = 40;
  r.sampling.seed = 1ull << 60;
  out.push_back(r);
  r.sampling.repetition_penalty = 1.3f;
  r.sampling.frequency_penalty = 0.5f;
  r.sampling.choice = 3;
  out.push_back(r);
  return out;
}

struct observed {
  std::vector<std::vector<std::int32_t>> tokens;
  std::vector<float> logits;
};

/// The questions and a teacher-forced run: one after the other, or among `n_others` (0, or at least 28) at once.
observed ask(engine& e, std::uint32_t n_others) {
  client c(e);
  observed out;
  auto sink = std::make_shared<recorded>();
  request forced = tokens_request(9, 150, 0);
  forced.logits = sink;
  const std::vector<request> asked = questions();
  std::vector<answer_ptr> answers, others;
  for (std::uint32_t i = 0; i < n_others; ++i) {
    request r = tokens_request(20 + i, 3 + 11 * i % 120, 20 + 7 * i % 90);
    r.sampling.temperature = i % 2 ? 1.0f : 0.0f;
    others.push_back(c.submit(r));
    if (i == 17) c.submit(forced);
    if (i % 6 == 3 && answers.size() < asked.size()) answers.push_back(c.submit(asked[answers.size()]));
  }
  if (n_others == 0) {
    c.ask(forced);
    for (const request& r : asked) answers.push_back(c.ask(r));
  }
  BOOST_REQUIRE(c.run());
  BOOST_REQUIRE(answers.size() == asked.size());
  for (const auto& a : answers) {
    BOOST_TEST((a->end.reason == finish_reason::length), a->end.message);
    out.tokens.push_back(a->tokens);
  }
  for (const auto& a : others) BOOST_TEST((a->end.reason == finish_reason::length), a->end.message);
  BOOST_TEST(sink->in_order);
  out.logits = std::move(sink->all);
  return out;
}

const observed& alone() {
  static const observed o = [] {
    engine e = engine::open(tiny_options());
    return ask(e, 0);
  }();
  return o;
}

void same(const observed& a, const observed& b) {
  BOOST_REQUIRE(a.tokens.size() == b.tokens.size());
  for (std::size_t i = 0; i < a.tokens.size(); ++i)
    BOOST_TEST_CONTEXT("question " << i) BOOST_TEST(a.tokens[i] == b.tokens[i], boost::test_tools::per_element());
  BOOST_REQUIRE(a.logits.size() == b.logits.size());
  BOOST_TEST(std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)) == 0);
}

std::uint64_t page_bytes() {
  engine e = engine::open(tiny_options());
  return e.info().kv_cache_bytes / e.info().n_pages;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(engine_determinism)

BOOST_AUTO_TEST_CASE(the_questions_are_worth_asking) {
  const observed& o = alone();
  BOOST_REQUIRE(o.tokens.size() == 5u);
  BOOST_TEST(o.logits.size() == 150u * tiny_vocab);
  for (std::size_t i = 0; i < o.tokens.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) BOOST_TEST((o.tokens[i] != o.tokens[j]));
}

BOOST_AUTO_TEST_CASE(among_31_others) {
  engine e = engine::open(tiny_options());
  same(ask(e, 31), alone());
}

BOOST_AUTO_TEST_CASE(in_chunks_of_any_size) {
  for (std::uint32_t n : {1u, 7u, 16u, 50u, 2048u})
    BOOST_TEST_CONTEXT(n) {
      engine_options o = tiny_options();
      o.max_num_seqs = n < 8 ? 1 : 8;
      o.max_num_batched_tokens = n;
      engine e = engine::open(o);
      BOOST_TEST(e.info().max_num_batched_tokens == std::max(n, o.max_num_seqs));
      same(ask(e, 0), alone());
    }
}

BOOST_AUTO_TEST_CASE(after_preemption) {
  engine_options o = tiny_options();
  o.max_num_seqs = 12;
  o.kv_cache_memory_bytes = 24 * page_bytes();
  engine e = engine::open(o);
  BOOST_TEST(e.info().n_pages == 24u);
  same(ask(e, 31), alone());
  BOOST_TEST(metric(e, "vllm:num_preemptions_total") > 0);
  BOOST_TEST(metric(e, "troupe:recomputed_tokens_total") > 0);
}

BOOST_AUTO_TEST_CASE(on_any_number_of_threads) {
  for (std::uint32_t n : {2u, 3u})
    BOOST_TEST_CONTEXT(n) {
      engine_options o = tiny_options();
      o.threads = n;
      engine e = engine::open(o);
      same(ask(e, n == 2 ? 31 : 0), alone());
    }
}

BOOST_AUTO_TEST_CASE(on_any_number_of_ranks) {
  for (std::uint32_t n : {2u, 3u, 4u})
    BOOST_TEST_CONTEXT(n) {
      engine_options o = tiny_options();
      o.tensor_parallel_size = n;
      o.threads = n + 1;
      o.max_num_seqs = 12;
      o.kv_cache_memory_bytes = 24 * page_bytes();  // preempts, too
      engine e = engine::open(o);
      BOOST_TEST(e.info().tensor_parallel_size == n);
      BOOST_TEST(e.info().threads == n + 1);
      BOOST_TEST(e.info().n_pages == 24u);  // four KV heads, each on one rank
      same(ask(e, 31), alone());
    }
}

BOOST_AUTO_TEST_CASE(with_several_text_threads_or_all_folded_onto_one) {
  for (const bool fold : {false, true})
    for (const std::uint32_t n : {1u, 3u})
      BOOST_TEST_CONTEXT("fold " << fold << ", text threads " << n) {
        engine_options o = tiny_options();
        o.fold_threads = fold;
        o.text_threads = n;
        engine e = engine::open(o);
        same(ask(e, 31), alone());
        BOOST_TEST(e.status().requests_in_system <= 32u);
      }
}

BOOST_AUTO_TEST_CASE(several_ports_on_several_text_threads_stop_cleanly_in_the_middle) {
  for (const bool fold : {false, true}) {
    engine_options o = tiny_options();
    o.text_threads = 3;
    o.fold_threads = fold;
    engine e = engine::open(o);
    const std::string want = client(e).ask(tokens_request(1, 5, 20))->text;
    client a(e), b(e);
    std::vector<answer_ptr> answers;
    for (std::uint32_t i = 0; i < 12; ++i) answers.push_back((i % 2 ? a : b).submit(tokens_request(1, 5, 400)));
    const auto all_begun = [&](std::size_t from) {
      return [&, from] {
        for (std::size_t i = from; i < answers.size(); i += 2)
          if (answers[i]->tokens.size() < 20) return false;
        return true;
      };
    };
    BOOST_REQUIRE(b.run_until(all_begun(0)));
    BOOST_REQUIRE(a.run_until(all_begun(1)));
    bool stopped = false;
    std::binary_semaphore done(0);
    e.stop(std::chrono::milliseconds(0), [&] { stopped = true, done.release(); });
    done.acquire();
    BOOST_REQUIRE(a.run());
    BOOST_REQUIRE(b.run());
    for (const auto& x : answers) {
      BOOST_TEST(x->text.starts_with(want));
      BOOST_TEST(x->ended);
      if (x->end.reason != finish_reason::length) BOOST_TEST(x->end.error == errc::draining);
    }
    BOOST_TEST(stopped);
    BOOST_TEST(a.try_submit(tokens_request(1, 5, 5)).error == errc::draining);
  }
}

BOOST_AUTO_TEST_SUITE_END()
