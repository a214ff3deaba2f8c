#include <boost/test/unit_test.hpp>
#include <cstdlib>

#include "tests/sched/simulator.hpp"

using namespace troupe;
using namespace troupe::test;
using sched::no_deadline;

namespace {

struct workload {
  unsigned n = 60;
  unsigned prompt = 60, output = 40;   ///< at most
  sched::time_ns spread = 60'000'000;  ///< arrivals within
  bool slow_readers = false, cancels = false, faults = false, sinks = false, shared_prefixes = false;
};

model::rank_shape shape_of(std::uint32_t depth, std::uint32_t n_pages, bool window) {
  model::rank_shape s;
  s.vocab = 97;
  s.max_model_len = 160;
  s.max_slots = 8;
  s.max_batched_tokens = 48;
  s.depth = depth;
  s.groups = {{0, 2, 1024}};
  s.n_pages = {n_pages};
  if (window) {
    s.groups.push_back({24, 2, 1024});
    s.n_pages.push_back(std::max(6u, n_pages * 2 / 3));
  }
  return s;
}

sched::scheduler_options policy() {
  sched::scheduler_options o;
  o.eos_tokens = {3, 5};
  o.min_chunk = 8;
  o.step_budget = 3'000'000;
  return o;
}

void populate(simulator& sim, std::mt19937& random, const workload& w) {
  auto below = [&](unsigned n) { return static_cast<unsigned>(random() % n); };
  for (unsigned i = 0; i < w.n; ++i) {
    user u;
    u.request = std::make_shared<sched::request_record>();
    auto& r = *u.request;
    if (w.shared_prefixes) {
      const unsigned which = below(3);
      for (unsigned k = 0; k < 32 + 16 * which; ++k) r.prompt.push_back(static_cast<token_id>(10 + which));
      r.cache_salt = below(6) == 0 ? "other" : "";
    }
    if (w.shared_prefixes && i > 0 && below(3) == 0) {
      // The next turn of a conversation: what was asked and answered before comes again.
      const user& before = sim.users[below(i)];
      r.prompt = before.request->prompt;
      r.prompt.insert(r.prompt.end(), before.expected.begin(), before.expected.end());
      if (r.prompt.size() > 110) r.prompt.resize(110);
      r.cache_salt = before.request->cache_salt;
      u.arrives = before.arrives + below(static_cast<unsigned>(w.spread));
    }
    for (unsigned k = 1 + below(w.prompt); k > 0; --k) r.prompt.push_back(static_cast<token_id>(below(97)));
    if (below(8)) r.max_tokens = 1 + below(w.output);
    r.priority = static_cast<std::int32_t>(below(3)) - 1;
    r.tenant = below(3);
    r.ignore_eos = below(4) == 0;
    if (below(5) == 0) r.stop_token_ids = {static_cast<token_id>(below(97))};
    if (below(3) == 0) r.sampling.repetition_penalty = 1.1f;
    if (below(5) == 0) r.n_logprobs = 1;
    if (!u.arrives) u.arrives = below(static_cast<unsigned>(w.spread));
    if (below(6) == 0) u.finishes_at = 1 + below(10);
    if (w.slow_readers && below(2)) {
      r.credits = 1 + below(6);
      u.reads_every = 1 + below(9'000'000);
      if (below(6) == 0) {
        u.stops_reading = u.arrives + below(40'000'000);
        r.stall_limit = 30'000'000;
      }
    }
    if (w.cancels && below(4) == 0) {
      u.cancels = below(2) ? u.arrives + below(40'000'000) : below(static_cast<unsigned>(w.spread));
      u.hints = below(2);
    }
    if (w.cancels && below(8) == 0) r.deadline = u.arrives + below(40'000'000);
    if (w.faults && below(10) == 0) u.fails = true;
    if (w.sinks && below(4) == 0) {
      r.sink = i + 1;
      if (below(2)) r.max_tokens = 0;
    }
    sim.add(std::move(u));
  }
}

/// Runs and shuts down; a broken rule fails the test with its words.
void run(simulator& sim) {
  try {
    sim.run();
    sim.shut_down();
  } catch (const std::exception& e) {
    BOOST_FAIL(e.what());
  }
}

struct totals {
  std::uint64_t preemptions = 0, surplus = 0, mixed = 0, recomputed = 0, cached = 0;
};

totals simulate(std::uint32_t depth, std::uint32_t n_pages, bool window, unsigned seed, const workload& w,
                bool prefix_cache = false) {
  sched::scheduler_options o = policy();
  o.prefix_cache = prefix_cache;
  if (seed % 5 == 1) o.step_budget = 0;
  if (seed % 5 == 2) o.max_batched_tokens = 5;  // fewer tokens than slots
  if (seed % 5 == 3) o.watermark = 0.2;
  simulator sim(shape_of(depth, n_pages, window), o, seed);
  if (seed % 3 == 0) sim.cache_delay = 3'000'000;
  std::mt19937 random(seed);
  populate(sim, random, w);
  const std::string name = "depth " + std::to_string(depth) + " pages " + std::to_string(n_pages) + " seed " +
                           std::to_string(seed) + (window ? " window" : "") + (prefix_cache ? " cache" : "");
  BOOST_TEST_CONTEXT(name) {
    run(sim);
    for (const user& u : sim.users)
      if (u.request->sink && u.end.reason != finish_reason::cancelled && u.end.reason != finish_reason::error) {
        const auto& got = sim.rank.logits[u.request->sink];
        BOOST_TEST(got.size() == u.request->prompt.size());
        for (auto [position, times] : got) BOOST_TEST(times == 1);
      }
  }
  const auto st = sim.core.status();
  return {st.preemptions, st.surplus_tokens, sim.n_mixed, st.recomputed_tokens, st.cached_tokens};
}

}  // namespace

BOOST_AUTO_TEST_CASE(everybody_gets_what_a_lone_run_gives) {
  totals sum;
  for (std::uint32_t depth = 1; depth <= 3; ++depth)
    for (unsigned seed = 0; seed < 15; ++seed) {
      const totals t = simulate(depth, 200, false, seed, {});
      sum.mixed += t.mixed;
      sum.surplus += t.surplus;
      BOOST_TEST(t.preemptions == 0u);
    }
  BOOST_TEST(sum.mixed > 100u);    // prompts and answers share steps
  BOOST_TEST(sum.surplus > 100u);  // ends are seen late
}

BOOST_AUTO_TEST_CASE(few_pages_force_preemption_and_change_no_token) {
  totals sum;
  for (std::uint32_t depth = 1; depth <= 3; ++depth)
    for (unsigned seed = 0; seed < 15; ++seed) {
      const totals t = simulate(depth, 10 + seed % 8, seed % 2, seed, {.sinks = true});
      sum.preemptions += t.preemptions;
      sum.recomputed += t.recomputed;
    }
  BOOST_TEST(sum.preemptions > 100u);
  BOOST_TEST(sum.recomputed > 1000u);
}

BOOST_AUTO_TEST_CASE(slow_readers_cancels_and_faults_disturb_nobody_else) {
  for (std::uint32_t depth = 1; depth <= 3; ++depth)
    for (unsigned seed = 0; seed < 15; ++seed)
      simulate(depth, 12 + 10 * (seed % 3), seed % 2, seed,
               {.slow_readers = true, .cancels = true, .faults = true, .sinks = true});
}

BOOST_AUTO_TEST_CASE(cached_prefixes_change_no_token) {
  totals sum;
  for (std::uint32_t depth = 1; depth <= 3; ++depth)
    for (unsigned seed = 0; seed < 15; ++seed) {
      const totals t = simulate(
          depth, 12 + 12 * (seed % 4), seed % 2, seed,
          {.slow_readers = seed % 3 == 0, .cancels = seed % 4 == 0, .sinks = true, .shared_prefixes = true}, true);
      sum.cached += t.cached;
      sum.preemptions += t.preemptions;
    }
  BOOST_TEST(sum.cached > 10000u);
  BOOST_TEST(sum.preemptions > 50u);
}

BOOST_AUTO_TEST_CASE(many_seeds, *boost::unit_test::label("slow")) {
  // For a longer search: TROUPE_SIM_SEEDS=100000
  const char* wanted = std::getenv("TROUPE_SIM_SEEDS");
  const unsigned n = wanted ? static_cast<unsigned>(std::atoi(wanted)) : 600;
  for (unsigned seed = 100; seed < 100 + n; ++seed)
    simulate(1 + seed % 3, 10 + seed % 50, seed % 2, seed,
             {.slow_readers = seed % 3 > 0,
              .cancels = seed % 5 > 1,
              .faults = seed % 7 == 0,
              .sinks = seed % 4 == 0,
              .shared_prefixes = seed % 2 == 0},
             seed % 4 < 2);
}

BOOST_AUTO_TEST_CASE(a_lost_rank_ends_everybody_and_no_page_is_lost) {
  for (std::uint32_t depth = 1; depth <= 3; ++depth)
    for (bool prefix_cache : {false, true}) {
      sched::scheduler_options o = policy();
      o.prefix_cache = prefix_cache;
      simulator sim(shape_of(depth, 30, true), o, depth);
      std::mt19937 random(depth);
      populate(sim, random, {.slow_readers = true, .shared_prefixes = true});
      sim.rank_dies = 30'000'000;
      run(sim);
      int lost = 0;
      for (const user& u : sim.users) lost += u.end.code == errc::rank_failed;
      BOOST_TEST(lost > 10);
    }
}

BOOST_AUTO_TEST_CASE(the_same_calls_give_the_same_plans) {
  std::vector<std::vector<std::byte>> first;
  for (int round = 0; round < 2; ++round) {
    simulator sim(shape_of(2, 14, true), policy(), 9);
    sim.keep_log = true;
    std::mt19937 random(9);
    populate(sim, random, {.slow_readers = true, .cancels = true});
    sim.run();
    if (round == 0)
      first = sim.log;
    else
      BOOST_TEST((first == sim.log));
  }
  BOOST_TEST(first.size() > 100u);
}
