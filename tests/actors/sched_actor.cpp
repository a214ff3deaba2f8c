#include <boost/test/unit_test.hpp>
#include <troupe/error.hpp>

#include "actors/cache/actor.hpp"
#include "actors/sched/actor.hpp"

using namespace troupe;

namespace {

/// The scheduler's and the cache's actor with everything that they send kept, and their letters to each other carried.
struct stage {
  explicit stage(std::uint32_t depth = 1, std::uint32_t n_ranks = 1, bool prefix_cache = false,
                 std::vector<std::uint32_t> graph_sizes = {})
      : cache_actor({{32, 0}}), scheduler(options(depth, n_ranks, prefix_cache, std::move(graph_sizes))) {
    out.plan = [this](std::shared_ptr<const model::step_plan> p) { plans.push_back(std::move(p)); };
    out.tokens = [this](std::uint32_t shard, sched::token_batch&& b) { batches.emplace_back(shard, std::move(b)); };
    out.publish = [this](cache::prefix_publish&& m) { cache_actor.on(std::move(m), cache_out); };
    out.give_back = [this](cache::lease_return&& m) { cache_actor.on(std::move(m), cache_out); };
    out.lookup = [this](cache::prefix_lookup&& m) { cache_actor.on(std::move(m), cache_out); };
    out.want = [this](cache::lease_want&& m) { cache_actor.on(std::move(m), cache_out); };
    out.measured = [this](const sched::step_times& t) { measured.push_back(t); };
    out.drained = [this](sched::drained&&) { ++n_drained; };
    out.failed = [this](sched::failed&& m) { failures.push_back(m.message); };
    cache_out.granted = [this](cache::lease_granted&& m) { letters.emplace_back(std::move(m)); };
    cache_out.hit = [this](cache::prefix_hit&& m) { letters.emplace_back(std::move(m)); };
    settle();
  }
  sched::actor_options options(std::uint32_t depth, std::uint32_t n_ranks, bool prefix_cache,
                               std::vector<std::uint32_t> graph_sizes) {
    sched::actor_options o;
    o.shape.vocab = 100;
    o.shape.max_model_len = 128;
    o.shape.max_slots = 4;
    o.shape.max_batched_tokens = 64;
    o.shape.depth = depth;
    o.shape.groups = {{0, 1, 64}};
    o.shape.n_pages = {32};
    o.policy.eos_tokens = {2};
    o.policy.prefix_cache = prefix_cache;
    o.policy.warm_up = !graph_sizes.empty();
    o.shape.graph_sizes = std::move(graph_sizes);
    o.n_ranks = n_ranks;
    o.clock = [this] { return now += per_look; };
    return o;
  }
  void settle() {
    scheduler.settle(out);
    while (!letters.empty()) {
      auto batch = std::exchange(letters, {});
      for (auto& m : batch) std::visit([&](auto& x) { scheduler.on(std::move(x), out); }, m);
      scheduler.settle(out);
    }
  }
  template <class Message>
  void tell(Message m) {
    scheduler.on(std::move(m), out);
    settle();
  }
  sched::request_ptr request(request_id id, std::uint32_t n_prompt, std::uint32_t max_tokens, std::uint32_t shard = 0) {
    auto r = std::make_shared<sched::request_record>();
    r->id = id;
    r->prompt.assign(n_prompt, 7);
    r->max_tokens = max_tokens;
    r->shard = shard;
    return r;
  }
  /// Answers the plan with the token for every row that draws.
  void answer(std::size_t plan, token_id token, std::uint32_t rank = 0) {
    model::step_done d;
    d.seq = plans.at(plan)->view().seq();
    for (const auto& r : plans[plan]->view().rows())
      if (r.output == model::row_output::sample) d.rows.push_back({r.slot, token, 0, 0});
    d.device_ns = 1000;
    d.launch_ns = 70;
    tell(sched::step_done(rank, std::move(d)));
  }

  sched::time_ns now = 1'000'000'000, per_look = 0;
  std::vector<std::shared_ptr<const model::step_plan>> plans;
  std::vector<std::pair<std::uint32_t, sched::token_batch>> batches;
  std::vector<std::variant<cache::lease_granted, cache::prefix_hit>> letters;
  std::vector<sched::step_times> measured;
  std::vector<std::string> failures;
  int n_drained = 0;
  sched::outbox out;
  cache::outbox cache_out;
  cache::actor cache_actor;
  sched::actor scheduler;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(sched_actor)

BOOST_AUTO_TEST_CASE(a_request_becomes_plans_and_answers_become_one_batch_per_shard) {
  stage s;
  s.scheduler.on(sched::submit(s.request(1, 5, 2, 0)), s.out);
  s.scheduler.on(sched::submit(s.request(2, 6, 2, 3)), s.out);
  s.scheduler.on(sched::submit(s.request(3, 7, 2, 3)), s.out);
  BOOST_TEST(s.plans.empty());  // a handler only takes note
  s.settle();
  BOOST_REQUIRE(s.plans.size() == 1u);
  BOOST_TEST(s.plans[0]->view().rows().size() == 3u);
  s.answer(0, 9);
  BOOST_REQUIRE(s.batches.size() == 2u);
  BOOST_TEST(s.batches[0].first == 0u);
  BOOST_TEST(s.batches[0].second.events.size() == 1u);
  BOOST_TEST(s.batches[1].first == 3u);
  BOOST_REQUIRE(s.batches[1].second.events.size() == 2u);
  BOOST_TEST(s.batches[1].second.events[1].id == 3u);
  BOOST_TEST(s.batches[1].second.events[1].token == 9);
  BOOST_REQUIRE(s.plans.size() == 2u);
  s.answer(1, 10);
  BOOST_TEST((s.batches[2].second.events[0].reason == finish_reason::length));
  BOOST_TEST(s.batches[2].second.events[0].admitted == 1'000'000'000);
  BOOST_TEST(s.plans.size() == 2u);
}

BOOST_AUTO_TEST_CASE(as_many_plans_as_the_depth_are_under_way_on_every_rank) {
  stage s(2, 2);
  s.tell(sched::submit(s.request(1, 5, 50)));
  BOOST_TEST(s.plans.size() == 2u);
  s.answer(0, 9, 0);
  BOOST_TEST(s.plans.size() == 2u);    // rank 1 still has two
  BOOST_TEST(s.batches.size() == 1u);  // the token does not wait for it
  s.answer(0, 9, 1);
  BOOST_TEST(s.plans.size() == 3u);
}

BOOST_AUTO_TEST_CASE(what_a_step_costs_the_host_is_told_once_when_rank_0_has_done_it) {
  stage s(2, 2);
  s.per_look = 5;  // two looks at the clock around planning, two around the answer
  s.tell(sched::submit(s.request(1, 5, 3)));
  BOOST_TEST(s.plans.size() == 2u);
  s.answer(0, 9, 1);
  BOOST_TEST(s.measured.empty());
  for (std::size_t i = 0; i < 3; ++i) {
    s.answer(i, 9, 0);
    if (i > 0) s.answer(i, 9, 1);
    BOOST_REQUIRE(s.measured.size() == i + 1);
    BOOST_TEST(s.measured[i].plan_ns == 10u);
    BOOST_TEST(s.measured[i].launch_ns == 70u);
    BOOST_TEST(s.measured[i].device_ns == 1000u);
  }
  s.tell(sched::drain{});
  BOOST_REQUIRE(s.plans.size() == 4u);  // the last: stop, which is no step
  s.answer(3, 9, 0);
  BOOST_TEST(s.measured.size() == 3u);
}

BOOST_AUTO_TEST_CASE(captures_of_graphs_are_no_steps) {
  stage s(1, 1, false, {1, 2});
  std::size_t n = 0;
  for (; n < s.plans.size() && s.plans[n]->view().kind() == model::plan_kind::warm_up; ++n) s.answer(n, 0);
  BOOST_TEST(n == 2u);
  BOOST_TEST(s.measured.empty());
  s.tell(sched::submit(s.request(1, 5, 1)));
  s.answer(n, 9);
  BOOST_TEST(s.measured.size() == 1u);
}

BOOST_AUTO_TEST_CASE(an_end_of_text_is_seen_late_and_costs_one_row) {
  stage s(2);
  s.tell(sched::submit(s.request(1, 5, 50)));
  s.answer(0, 2);
  BOOST_REQUIRE(s.batches.size() == 1u);
  BOOST_TEST((s.batches[0].second.events[0].reason == finish_reason::stop));
  BOOST_TEST(s.batches[0].second.events[0].token == 2);
  s.answer(1, 9);
  BOOST_TEST(s.batches.size() == 1u);
  BOOST_TEST(s.scheduler.core().status().surplus_tokens == 1u);
  BOOST_TEST(s.scheduler.core().status().n_free_pages == 32u);
}

BOOST_AUTO_TEST_CASE(cancel_finish_and_deadline_end_a_request_at_once) {
  stage s;
  s.tell(sched::submit(s.request(1, 5, 50)));
  s.tell(sched::cancel{1});
  BOOST_TEST((s.batches.back().second.events[0].reason == finish_reason::cancelled));
  s.answer(0, 9);
  s.tell(sched::submit(s.request(2, 5, 50)));
  s.answer(1, 9);
  s.tell(sched::finish{2, 1});
  BOOST_TEST((s.batches.back().second.events[0].reason == finish_reason::stop));
  BOOST_TEST(s.batches.back().second.events[0].token == -1);
  s.answer(2, 9);
  auto r = s.request(3, 5, 50);
  r->deadline = s.now + 5;
  s.tell(sched::submit(r));
  BOOST_REQUIRE(s.scheduler.next_deadline().has_value());
  const auto when = *s.scheduler.next_deadline();
  BOOST_TEST((when.time_since_epoch().count() == s.now + 5));
  struct tick {
    std::chrono::steady_clock::time_point now;
  };
  s.scheduler.on(tick{when}, s.out);
  s.settle();
  BOOST_TEST(s.batches.back().second.events[0].code == errc::deadline_exceeded);
  BOOST_TEST(!s.scheduler.next_deadline().has_value());
}

BOOST_AUTO_TEST_CASE(a_stream_without_credit_parks_until_its_reader_comes_back) {
  stage s;
  auto r = s.request(1, 5, 50);
  r->credits = 2;
  s.tell(sched::submit(r));
  s.answer(0, 9);
  s.answer(1, 9);
  BOOST_TEST(s.plans.size() == 2u);
  BOOST_TEST(s.scheduler.core().status().n_parked == 1u);
  BOOST_TEST(s.scheduler.next_deadline().has_value());
  s.tell(sched::resume{1, 1});
  BOOST_TEST(s.plans.size() == 3u);
  BOOST_TEST((s.plans[2]->view().rows()[0].input == model::row_input::last_token));
  s.answer(2, 9);
  BOOST_TEST(s.plans.size() == 3u);
}

BOOST_AUTO_TEST_CASE(a_second_request_reuses_the_first_one_s_prompt) {
  stage s(1, 1, true);
  s.tell(sched::submit(s.request(1, 50, 2)));
  s.answer(0, 9);
  s.answer(1, 9);
  s.tell(sched::submit(s.request(2, 50, 2)));
  BOOST_REQUIRE(s.plans.size() == 3u);
  const auto row = s.plans[2]->view().rows()[0];
  BOOST_TEST(row.position == 48u);
  BOOST_TEST(row.n_tokens == 2u);
  BOOST_TEST(s.plans[2]->view().deltas().size() == 4u);
  s.answer(2, 9);
  s.answer(3, 9);
  BOOST_TEST(s.batches.back().second.events[0].n_cached == 48u);
}

BOOST_AUTO_TEST_CASE(a_lost_rank_ends_all_requests_and_refuses_new_ones) {
  stage s(2);
  s.tell(sched::submit(s.request(1, 5, 50)));
  s.tell(sched::submit(s.request(2, 5, 50)));
  s.tell(sched::rank_failed(1, "device lost"));
  BOOST_REQUIRE(s.batches.size() == 1u);
  BOOST_REQUIRE(s.batches[0].second.events.size() == 2u);
  BOOST_TEST(s.batches[0].second.events[0].code == errc::rank_failed);
  BOOST_TEST(s.batches[0].second.events[0].message == "rank 1 was lost: device lost");
  s.tell(sched::submit(s.request(3, 5, 50)));
  BOOST_TEST(s.batches[1].second.events[0].code == errc::rank_failed);
  s.answer(0, 9);  // a late answer harms nothing
  BOOST_TEST(s.failures.empty());
  BOOST_TEST(s.cache_actor.store().pool(0).n_free() == 32u);
  s.tell(sched::drain{});
  BOOST_TEST(s.n_drained == 1);
}

BOOST_AUTO_TEST_CASE(a_breach_of_the_books_ends_requests_and_is_reported) {
  stage s;
  s.tell(sched::submit(s.request(1, 5, 50)));
  s.tell(sched::step_done(0, model::step_done{99, {}, 0}));
  BOOST_REQUIRE(s.failures.size() == 1u);
  BOOST_TEST(s.batches.at(0).second.events.at(0).code == errc::internal);
  s.tell(sched::submit(s.request(2, 5, 50)));
  BOOST_TEST(s.batches.at(1).second.events.at(0).code == errc::internal);
  BOOST_TEST(s.plans.size() == 1u);
  BOOST_TEST(s.failures.size() == 1u);
}

BOOST_AUTO_TEST_CASE(drained_goes_out_once_after_every_rank_did_the_stop_plan) {
  stage s(2, 2);
  s.tell(sched::submit(s.request(1, 5, 2)));
  s.tell(sched::drain{});
  s.answer(0, 9, 1);
  s.answer(0, 9, 0);
  s.answer(1, 9, 0);
  s.answer(1, 9, 1);
  BOOST_REQUIRE(s.plans.size() == 3u);
  BOOST_TEST((s.plans[2]->view().kind() == model::plan_kind::stop));
  s.answer(2, 9, 0);
  BOOST_TEST(s.n_drained == 0);
  s.answer(2, 9, 1);
  BOOST_TEST(s.n_drained == 1);
  s.settle();
  BOOST_TEST(s.n_drained == 1);
  BOOST_TEST(s.cache_actor.store().pool(0).n_free() == 32u);
}

BOOST_AUTO_TEST_SUITE_END()
