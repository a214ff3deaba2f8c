// Ranks of a tensor-parallel group compute the bits of one rank alone, at every degree that a model can be divided by.
#include <boost/test/unit_test.hpp>
#include <cstring>
#include <random>

#include "tests/backend/crowd.hpp"
#include "tests/backend/group.hpp"
#include "tests/backend/oracle.hpp"
#include "tests/backend/smollm2.hpp"
#include "tests/cpu/driver.hpp"
#include "tests/cpu/hash.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

cpu::cpu_options options(std::uint32_t threads = 1) {
  cpu::cpu_options o;
  o.threads = threads;
  o.max_slots = 33;
  o.max_batched_tokens = 300;
  o.max_model_len = 512;
  o.n_pages = 600;
  return o;
}

class group_driver : public backend_driver {
 public:
  group_driver(std::shared_ptr<const model::model> m, const cpu::cpu_options& o, std::uint32_t size)
      : backend_driver([&](auto sinks) {
          const auto members = group::make_thread_group(size, {1 << 16, std::chrono::seconds(60)}).value();
          const auto make = [&](std::uint32_t rank, auto own) {
            return cpu::make_cpu_backend(m, o, rank == 0 ? std::move(own) : nullptr, members[rank]);
          };
          return std::make_unique<rank_group>(size, std::move(sinks), make, answering::first);
        }) {}
};

struct entry {
  step_seq seq;
  slot_id slot;
  token_id token;
  std::uint32_t flags, logprob_bits;
  bool operator==(const entry&) const = default;
};

/// Everything that a random life of 12 slots answers: prompts in chunks, decode steps, penalties, biases, log
/// probabilities, forks of pages, preemption and recompute.
std::vector<entry> transcript(backend_driver& d, std::uint32_t vocab, std::uint32_t seed) {
  std::mt19937 random(seed);
  constexpr slot_id n_slots = 12;
  std::vector<std::vector<token_id>> texts(n_slots);
  std::vector<std::uint32_t> computed(n_slots, 0);
  std::vector<bool> drew(n_slots, false);  // since it was admitted
  std::vector<entry> out;
  const auto admit = [&](slot_id s) {
    sampling_params p;
    p.seed = seed + s;
    p.temperature = s % 3 == 0 ? 0.0f : 0.9f;
    if (s % 4 == 1) p.top_p = 0.9f, p.top_k = 50;
    if (s % 2 == 1) p.repetition_penalty = 1.3f, p.frequency_penalty = 0.2f, p.presence_penalty = 0.1f;
    if (s % 5 == 1) p.logit_bias = {{5, 3.0f}, {7, -100.0f}};
    d.admit(s, p, texts[s]);
    computed[s] = 0;
    drew[s] = false;
  };
  for (slot_id s = 0; s < n_slots; ++s) {
    texts[s] = random_ids(1 + random() % 90, vocab, random);
    admit(s);
  }
  for (int step = 0; step < 40; ++step) {
    std::uint32_t budget = 250;
    for (slot_id s = 0; s < n_slots; ++s) {
      const auto n = static_cast<std::uint32_t>(texts[s].size());
      if (computed[s] > 0 && random() % 25 == 0) {  // preempted
        d.release(s);
        admit(s);
      }
      if (random() % 6 == 0) continue;
      if (drew[s]) {
        d.decode(s, n - 1);
        if (random() % 2) d.plan.rows.back().output = model::row_output::sample_logprobs;
        computed[s] = n;
        continue;
      }
      const std::uint32_t take = std::min({budget, n - computed[s], static_cast<std::uint32_t>(1 + random() % 60)});
      if (take == 0) continue;
      budget -= take;
      const bool last = computed[s] + take == n;
      d.chunk(s, computed[s], std::span(texts[s]).subspan(computed[s], take),
              last ? random() % 2 ? model::row_output::sample : model::row_output::sample_logprobs
                   : model::row_output::none);
      computed[s] += take;
    }
    if (!d.plan.rows.empty() && random() % 3 == 0) {  // a fork that nobody reads must disturb nobody
      d.plan.forks.push_back({0, d.table(d.plan.rows[0].slot)[0], 599, 16});
    }
    d.step();
    for (const model::row_result& r : d.done().rows) {
      std::uint32_t bits;
      std::memcpy(&bits, &r.logprob, sizeof bits);
      out.push_back({d.done().seq, r.slot, r.token, r.flags, bits});
      if (r.token < 0) continue;
      texts[r.slot].push_back(r.token);
      drew[r.slot] = true;
    }
  }
  for (slot_id s = 0; s < n_slots; ++s) d.release(s);
  d.step();
  return out;
}

/// The logits of a sequence whose first pages are another's, the last of them a copy.
rows after_a_fork(backend_driver& d, std::span<const token_id> ids) {
  d.sinks->forget(2);
  d.admit(1, {});
  d.chunk(1, 0, ids.first(55), model::row_output::none);
  d.step();
  d.admit(2, {});
  for (std::uint32_t i = 0; i < 3; ++i) d.plan.deltas.push_back({2, 0, i, d.table(1)[i]});
  d.plan.deltas.push_back({2, 0, 3, 599});
  d.plan.deltas.push_back({2, 0, 4, 598});
  d.plan.forks.push_back({0, d.table(1)[3], 599, 7});
  model::plan_row r{};
  r.slot = 2;
  r.kind = model::row_kind::chunk;
  r.output = model::row_output::logits;
  r.position = 55;
  r.n_tokens = 15;
  r.sink = 2;
  d.plan.tokens.assign(ids.begin() + 55, ids.begin() + 70);
  d.plan.rows.push_back(r);
  d.step();
  d.release(1);
  d.plan.releases.push_back(2);
  d.step();
  rows out;
  for (auto& [position, row] : d.sinks->at(2)->rows) out.push_back(row);
  return out;
}

std::vector<std::uint32_t> degrees(const model::model& m) {
  std::vector<std::uint32_t> out;
  for (std::uint32_t size : {2u, 3u, 4u})
    if (cpu::plan_memory(m, options(), size)) out.push_back(size);
  return out;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(groups)

BOOST_AUTO_TEST_CASE(logits_do_not_depend_on_the_number_of_ranks) {
  std::size_t n_groups = 0;
  std::vector<oracle_case> cases(std::begin(oracle_cases), std::end(oracle_cases));
  cases.insert(cases.end(), {{"qwen3", "model-Q8_0.gguf"}, {"mixtral", "model-Q8_0.gguf"}});
  for (const oracle_case& c : cases) {
    const std::string folder = data(c.folder);
    auto m = model::open_model(*c.file ? folder + "/" + c.file : folder).value();
    std::mt19937 random(21);
    const auto ids = random_ids(150, m->config.vocab, random);
    driver one(m, options());
    const rows alone = one.logits(ids, 1000);
    const rows forked = after_a_fork(one, ids);
    BOOST_TEST_REQUIRE(forked.size() == 15u);
    BOOST_TEST((forked.back() == alone[69]));
    for (std::uint32_t size : degrees(*m))
      for (std::uint32_t threads : {1u, 2u})
        BOOST_TEST_CONTEXT(c.folder << " " << c.file << ", " << size << " ranks of " << threads << " threads") {
          ++n_groups;
          group_driver d(m, options(threads), size);
          d.shuffle_pages(random);
          BOOST_TEST(same(alone, d.logits(ids, 1000)));
          BOOST_TEST(same(alone, d.logits(ids, 1 + random() % 20)));
          if (threads == 1) BOOST_TEST(same(alone, in_a_crowd(d, ids, random, m->config.vocab)));
        }
    for (std::uint32_t size : degrees(*m))
      BOOST_TEST(same(forked, [&] {
        group_driver d(m, options(), size);
        return after_a_fork(d, ids);
      }()));
  }
  BOOST_TEST(n_groups >= 2 * 2 * cases.size());
}

BOOST_AUTO_TEST_CASE(tokens_and_log_probabilities_do_not_depend_on_the_number_of_ranks) {
  for (const char* name : {"llama-256/model-Q4_K_M.gguf", "llama-bias", "llama3-rope/model-f16.gguf"}) {
    auto m = model::open_model(data(name)).value();
    for (std::uint32_t seed : {1u, 2u}) {
      driver one(m, options());
      const auto alone = transcript(one, m->config.vocab, seed);
      BOOST_TEST_REQUIRE(alone.size() > 150u);
      for (std::uint32_t size : degrees(*m)) {
        group_driver d(m, options(1 + seed % 2), size);
        BOOST_TEST((transcript(d, m->config.vocab, seed) == alone),
                   name << ", seed " << seed << ", " << size << " ranks");
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(every_type_of_kv_cache_is_divided_alike) {
  auto m = model::open_model(data("llama-bias/model-bf16.gguf")).value();
  std::mt19937 random(22);
  const auto ids = random_ids(100, m->config.vocab, random);
  for (cpu::kv_dtype kv : {cpu::kv_dtype::f16, cpu::kv_dtype::bf16, cpu::kv_dtype::f32}) {
    auto o = options();
    o.kv = kv;
    const auto alone = driver(m, o).logits(ids, 30);
    for (std::uint32_t size : {2u, 3u, 4u}) BOOST_TEST(same(alone, group_driver(m, o, size).logits(ids, 30)));
  }
}

BOOST_AUTO_TEST_CASE(what_a_group_takes_is_planned_together) {
  auto m = model::open_model(data("llama-bias")).value();
  cpu::cpu_options o;
  o.max_slots = 4;
  const auto one = cpu::plan_memory(*m, o).value(), three = cpu::plan_memory(*m, o, 3).value();
  BOOST_TEST(three.page_bytes == one.page_bytes);  // four KV heads: 1, 1 and 2
  BOOST_TEST(three.kv == one.kv);
  const auto members = group::make_thread_group(3, {}).value();
  for (std::uint32_t r = 0; r < 3; ++r) {
    const auto rank = cpu::make_cpu_backend(m, o, nullptr, members[r]).value();
    BOOST_TEST(rank->shape().n_pages.at(0) == one.kv / one.page_bytes);
    BOOST_TEST(rank->shape().groups.at(0).page_bytes == one.page_bytes / 4 * (r == 2 ? 2 : 1));
    BOOST_TEST(rank->shape().vocab == 448u);
  }
  // Two KV heads on four ranks: each is held twice.
  auto wide = model::open_model(data("llama")).value();
  BOOST_TEST(cpu::plan_memory(*wide, o, 4)->page_bytes == 2 * cpu::plan_memory(*wide, o)->page_bytes);
}

BOOST_AUTO_TEST_CASE(degrees_that_cannot_be_are_refused_by_name) {
  auto m = model::open_model(data("llama")).value();
  for (std::uint32_t size : {3u, 5u, 8u}) {
    const auto r = cpu::plan_memory(*m, options(), size);
    BOOST_TEST_REQUIRE(!r.ok());
    BOOST_TEST(r.error().message.find("tensor-parallel-size " + std::to_string(size)) != std::string::npos,
               r.error().message);
  }
  auto o = options();
  o.reference = true;
  const auto members = group::make_thread_group(2, {}).value();
  const auto r = cpu::make_cpu_backend(m, o, nullptr, members[0]);
  BOOST_TEST_REQUIRE(!r.ok());
  BOOST_TEST(r.error().message.find("tensor-parallel-size 2: the reference path") != std::string::npos,
             r.error().message);
}

BOOST_AUTO_TEST_CASE(a_group_that_is_ended_fails_the_step_on_every_rank) {
  auto m = model::open_model(data("llama")).value();
  for (std::uint32_t threads : {1u, 2u}) {
    const auto members = group::make_thread_group(2, {1 << 16, std::chrono::seconds(60)}).value();
    std::vector<std::unique_ptr<model::backend>> ranks;
    for (const auto& member : members)
      ranks.push_back(cpu::make_cpu_backend(m, options(threads), nullptr, member).value());
    model::plan_builder b;
    b.admit(0, {}, 1);
    b.deltas = {{0, 0, 0, 3}};
    b.tokens = {1, 2, 3};
    model::plan_row r{};
    r.kind = model::row_kind::chunk;
    r.output = model::row_output::sample;
    r.n_tokens = 3;
    b.rows = {r};
    const auto plan = b.build(1);
    model::step_done done;
    BOOST_TEST_REQUIRE(ranks[0]->launch(plan).ok());
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      members[1]->abort();
    });
    const auto first = ranks[0]->poll(done);  // rank 1 never comes
    other.join();
    BOOST_TEST_REQUIRE(!first.ok());
    BOOST_TEST((first.error().code == errc::rank_failed));
    BOOST_TEST_REQUIRE(ranks[1]->launch(plan).ok());
    BOOST_TEST(!ranks[1]->poll(done).ok());
  }
}

BOOST_AUTO_TEST_CASE(the_real_model_has_the_same_bits_on_two_and_three_ranks,
                     *boost::unit_test::precondition(smollm2_is_there)) {
  auto m = model::open_model(real_model("smollm2.gguf")).value();
  cpu::cpu_options o;
  o.threads = 1;
  o.max_slots = 1;
  o.n_pages = 64;
  o.max_model_len = 1024;
  std::string alone;
  for (std::uint32_t size : {1u, 2u, 3u}) {
    group_driver d(m, o, size);
    bit_hash hash;
    measure_smollm2(d, 60, [&](const std::vector<float>& row) { hash.add(row); });
    const std::string bits = hash.hex();
    if (size == 1) alone = bits;
    BOOST_TEST(bits == alone, size << " ranks");
  }
  const auto four = cpu::plan_memory(*m, o, 4);
  BOOST_TEST_REQUIRE(!four.ok());
  BOOST_TEST(four.error().message.find("tensor-parallel-size 4: 9 heads over 3 KV heads") != std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()
