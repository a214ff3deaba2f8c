#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstring>
#include <random>
#include <utility>

#include "tests/backend/crowd.hpp"
#include "tests/cpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;
using kernels::cpu::isa;

namespace {

cpu::cpu_options options(std::uint32_t threads, isa tier) {
  cpu::cpu_options o;
  o.threads = threads;
  o.isa = tier;
  o.max_slots = 33;
  o.max_batched_tokens = 300;
  o.max_model_len = 2048;
  o.n_pages = 600;
  return o;
}

std::vector<isa> tiers() {
  std::vector<isa> out;
  for (isa t : {isa::scalar, isa::avx2, isa::avx512})
    if (kernels::cpu::isa_supported(t)) out.push_back(t);
  return out;
}

constexpr const char* models[] = {
    "llama-256/model-Q4_K_M.gguf", "llama-bias/model-bf16.gguf", "llama3-rope", "llama-fp8", "qwen3_moe",
    "mixtral/model-Q8_0.gguf"};

}  // namespace

BOOST_AUTO_TEST_CASE(logits_do_not_depend_on_chunks_batches_pages_threads_or_tiers) {
  for (const char* name : models) {
    auto m = model::open_model(data(name)).value();
    std::mt19937 random(11);
    const auto ids = random_ids(150, m->config.vocab, random);
    rows alone;
    for (isa tier : tiers())
      for (std::uint32_t threads : {1u, 2u, 3u}) {
        if (tier == isa::scalar && threads != 2) continue;  // slow, and no other code than the rest
        driver d(m, options(threads, tier));
        d.shuffle_pages(random);
        if (alone.empty()) alone = d.logits(ids, 1000);
        BOOST_TEST_CONTEXT(name << " " << kernels::cpu::name(tier) << " " << threads << " threads") {
          BOOST_TEST(same(alone, d.logits(ids, 1000)));
          BOOST_TEST(same(alone, d.logits(ids, 1)));
          BOOST_TEST(same(alone, d.logits(ids, 7)));
          BOOST_TEST(same(alone, in_a_crowd(d, ids, random, m->config.vocab)));
        }
      }
  }
}

BOOST_AUTO_TEST_CASE(draws_do_not_depend_on_batches_or_preemption) {
  for (const char* name : {models[0], models[2]}) {
    auto m = model::open_model(data(name)).value();
    for (std::uint32_t threads : {1u, 2u, 3u}) BOOST_TEST_CONTEXT(name << ", " << threads << " threads") {
        bool first = true;  // what is drawn alone is drawn by one thread
        check_preempted(
            [&] { return driver(m, options(std::exchange(first, false) ? 1 : threads, kernels::cpu::best_isa())); },
            11 + threads);
      }
  }
}

BOOST_AUTO_TEST_CASE(logits_do_not_depend_on_shared_prefixes) {
  auto m = model::open_model(data(models[0])).value();
  std::mt19937 random(12);
  // A second sequence over the first one's pages, as after a prefix hit, and over a fork of a page.
  driver d(m, options(2, kernels::cpu::best_isa()));
  const auto ids = random_ids(70, m->config.vocab, random);
  const auto whole = d.logits(ids, 100);
  d.sinks->forget(1);
  d.sinks->forget(2);
  d.admit(1, {});
  d.chunk(1, 0, std::span(ids).first(55), model::row_output::none);
  d.step();
  d.admit(2, {});
  for (std::uint32_t i = 0; i < 3; ++i) d.plan.deltas.push_back({2, 0, i, d.table(1)[i]});
  const page_id copy = 599;
  d.plan.deltas.push_back({2, 0, 3, copy});
  d.plan.deltas.push_back({2, 0, 4, 598});
  d.plan.forks.push_back({0, d.table(1)[3], copy, 7});
  model::plan_row r{};
  r.slot = 2;
  r.kind = model::row_kind::chunk;
  r.output = model::row_output::logits;
  r.position = 55;
  r.n_tokens = 15;
  r.sink = 2;
  d.plan.tokens.assign(ids.begin() + 55, ids.end());
  d.plan.rows.push_back(r);
  d.step();
  const auto& got = d.sinks->at(2)->rows;
  BOOST_TEST_REQUIRE(got.size() == 15u);
  for (const auto& [position, row] : got) BOOST_TEST((row == whole[position]));
}

BOOST_AUTO_TEST_CASE(long_contexts_split_over_threads_without_a_trace) {
  auto m = model::open_model(data("llama3-rope")).value();
  std::mt19937 random(13);
  const auto ids = random_ids(1700, m->config.vocab, random);
  for (cpu::kv_dtype kv : {cpu::kv_dtype::f16, cpu::kv_dtype::bf16, cpu::kv_dtype::f32}) {
    std::vector<float> alone;
    for (std::uint32_t threads : {1u, 2u, 5u}) {
      cpu::cpu_options o = options(threads, kernels::cpu::best_isa());
      o.kv = kv;
      driver d(m, o);
      d.admit(0, {});
      for (std::uint32_t at = 0; at < 1699; at += 283)
        d.chunk(0, at, std::span(ids).subspan(at, std::min(283u, 1699 - at)), model::row_output::none), d.step();
      d.chunk(0, 1699, std::span(ids).last(1), model::row_output::logits);
      d.step();
      const auto& row = d.sinks->at(0)->rows.at(1699);
      if (alone.empty()) alone = row;
      BOOST_TEST((row == alone));
    }
  }
}
