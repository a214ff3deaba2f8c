#include <boost/test/unit_test.hpp>
#include <troupe/error.hpp>

#include "tests/sched/simulator.hpp"

using namespace troupe;
using namespace troupe::test;
using sched::no_deadline;

namespace {

model::rank_shape small(std::uint32_t depth = 1, std::uint32_t n_pages = 64) {
  model::rank_shape s;
  s.vocab = 50;
  s.max_model_len = 256;
  s.max_slots = 4;
  s.max_batched_tokens = 64;
  s.depth = depth;
  s.groups = {{0, 1, 64}};
  s.n_pages = {n_pages};
  return s;
}
sched::scheduler_options plain() {
  sched::scheduler_options o;
  o.step_budget = 0;
  o.watermark = 0;
  return o;
}
user with(std::uint32_t n_prompt, std::optional<std::uint32_t> max_tokens, sched::time_ns arrives = 0) {
  user u;
  u.request = std::make_shared<sched::request_record>();
  for (std::uint32_t i = 0; i < n_prompt; ++i) u.request->prompt.push_back(static_cast<token_id>((i * 7) % 50));
  u.request->max_tokens = max_tokens;
  u.request->ignore_eos = true;
  u.arrives = arrives;
  return u;
}
void go(simulator& sim) {
  try {
    sim.run();
    sim.shut_down();
  } catch (const std::exception& e) {
    BOOST_FAIL(e.what());
  }
}
sched::time_ns longest_gap(const user& u) {
  sched::time_ns gap = 0;
  for (std::size_t i = 1; i < u.times.size(); ++i) gap = std::max(gap, u.times[i] - u.times[i - 1]);
  return gap;
}

}  // namespace

BOOST_AUTO_TEST_CASE(what_can_never_fit_is_refused_with_the_limit_s_name) {
  simulator sim(small(), plain(), 1);
  user& fits = sim.add(with(200, 56));
  user& both = sim.add(with(200, 57));
  user& prompt = sim.add(with(256, std::nullopt));
  user& last_place = sim.add(with(255, std::nullopt));
  user& empty = sim.add(with(0, 5));
  user strange = with(3, 5);
  strange.request->prompt[1] = 50;
  user& vocabulary = sim.add(strange);
  sim.check_lone_runs = false;
  go(sim);
  BOOST_TEST((fits.end.reason == finish_reason::length));
  BOOST_TEST(fits.got.size() == 56u);
  BOOST_TEST(last_place.got.size() == 1u);
  BOOST_TEST(both.end.code == errc::context_exceeded);
  BOOST_TEST(both.end.message ==
             "the prompt has 200 tokens and max_tokens is 57, together more than the context of 256 tokens "
             "(--max-model-len): shorten the prompt or lower max_tokens");
  BOOST_TEST(prompt.end.code == errc::context_exceeded);
  BOOST_TEST(prompt.end.message.find("--max-model-len") != std::string::npos);
  BOOST_TEST(empty.end.code == errc::invalid_argument);
  BOOST_TEST(vocabulary.end.code == errc::invalid_argument);
  BOOST_TEST(vocabulary.end.message.find("50") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(the_cache_s_size_is_a_limit_with_its_own_name) {
  simulator sim(small(1, 4), plain(), 1);
  user& fits = sim.add(with(60, 5));  // the 65th token is drawn but never computed
  user& over = sim.add(with(60, 6));
  user& open = sim.add(with(60, std::nullopt));
  sim.check_lone_runs = false;
  go(sim);
  BOOST_TEST(fits.got.size() == 5u);
  BOOST_TEST(open.got.size() == 5u);
  BOOST_TEST(over.end.code == errc::context_exceeded);
  BOOST_TEST(over.end.message.find("KV cache") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_shape_that_cannot_run_is_a_configuration_error) {
  model::rank_shape s = small();
  s.n_pages = {0};
  BOOST_CHECK_THROW(sched::scheduler(s, plain()), troupe::error);
  s = small();
  s.n_pages = {4, 4};
  BOOST_CHECK_THROW(sched::scheduler(s, plain()), troupe::error);
  s = small();
  s.max_slots = 0;
  BOOST_CHECK_THROW(sched::scheduler(s, plain()), troupe::error);
}

BOOST_AUTO_TEST_CASE(stop_ids_end_an_answer_and_surplus_is_counted) {
  for (std::uint32_t depth : {1u, 2u, 3u}) {
    simulator sim(small(depth), plain(), 1);
    user u = with(10, 200);
    const auto free_run = lone_run(u.request->prompt, 1, 50, 200, {});
    u.request->stop_token_ids = {free_run[20]};
    user& stopped = sim.add(u);
    go(sim);
    BOOST_TEST((stopped.end.reason == finish_reason::stop));
    BOOST_TEST(stopped.end.token == free_run[20]);
    BOOST_TEST(sim.core.status().surplus_tokens == depth - 1);
  }
}

BOOST_AUTO_TEST_CASE(a_decode_row_continues_the_slot_s_own_token) {
  simulator sim(small(2), plain(), 1);
  sim.add(with(10, 5));
  sim.keep_log = true;
  go(sim);
  const auto second = model::step_plan_view::parse(sim.log[1]).value();
  BOOST_REQUIRE(second.rows().size() == 1u);
  BOOST_TEST((second.rows()[0].input == model::row_input::last_token));
  BOOST_TEST((second.rows()[0].kind == model::row_kind::decode));
  BOOST_TEST(second.rows()[0].position == 10u);
  BOOST_TEST(second.tokens().empty());
  BOOST_TEST(second.admits().empty());
}

BOOST_AUTO_TEST_CASE(several_prompts_share_a_step_and_a_short_one_passes_a_long_one) {
  simulator sim(
      small(),
      [] {
        auto o = plain();
        o.min_chunk = 8;
        return o;
      }(),
      1);
  user& long_one = sim.add(with(250, 2));
  user& short_one = sim.add(with(20, 2));
  sim.keep_log = true;
  go(sim);
  BOOST_TEST(model::step_plan_view::parse(sim.log[0]).value().rows().size() == 2u);
  BOOST_TEST(model::step_plan_view::parse(sim.log[0]).value().n_tokens() == 64u);
  BOOST_TEST(short_one.ended_at < long_one.times[0]);
}

BOOST_AUTO_TEST_CASE(no_tokens_wanted_means_the_prompt_only) {
  simulator sim(small(2), plain(), 1);
  user u = with(100, 0);
  u.request->sink = 9;
  user& logits = sim.add(u);
  user& nothing = sim.add(with(100, 0));
  user v = with(100, 3);
  v.request->sink = 10;
  user& both = sim.add(v);
  go(sim);
  for (user* x : {&logits, &nothing}) {
    BOOST_TEST((x->end.reason == finish_reason::length));
    BOOST_TEST(x->end.token == -1);
    BOOST_TEST(x->got.empty());
  }
  BOOST_TEST(both.got.size() == 3u);
  for (std::uint32_t sink : {9u, 10u}) {
    BOOST_TEST(sim.rank.logits[sink].size() == 100u);
    for (auto [position, times] : sim.rank.logits[sink]) BOOST_TEST(times == 1);
  }
}

BOOST_AUTO_TEST_CASE(a_cancel_s_pages_are_back_after_the_plans_that_refer_to_them) {
  sched::scheduler core(small(2, 16), plain());
  cache::page_lists pages(1);
  for (page_id p = 0; p < 16; ++p) pages[0].push_back(p);
  core.lease_granted(pages, std::vector<std::uint32_t>{0});
  user u = with(100, 50);
  u.request->id = 1;
  core.submit(u.request);
  fake_rank rank(small(2, 16));
  for (int i = 0; i < 2; ++i) rank.launch(*core.plan_step(0));
  BOOST_TEST(core.status().n_free_pages == 9u);
  core.cancel(1);
  BOOST_TEST((core.output().events.back().reason == finish_reason::cancelled));
  BOOST_TEST(core.status().n_free_pages == 9u);
  BOOST_TEST(!core.plan_step(0));
  core.on_step_done(rank.run());
  BOOST_TEST(core.status().n_free_pages == 9u);
  core.on_step_done(rank.run());
  BOOST_TEST(core.status().n_free_pages == 16u);
  BOOST_TEST(!core.plan_step(0));  // the slot's release travels with the next plan
  core.cancel(1);
  core.finish(1, 3);
  core.resume(1, 3, 0);
  BOOST_TEST(core.output().events.size() == 1u);
  core.audit();
}

BOOST_AUTO_TEST_CASE(the_flag_alone_cancels_also_before_submit) {
  sched::scheduler core(small(), plain());
  auto r = with(4, 4).request;
  r->id = 1;
  r->cancelled = true;
  core.submit(r);
  BOOST_REQUIRE(core.output().events.size() == 1u);
  BOOST_TEST((core.output().events[0].reason == finish_reason::cancelled));
  BOOST_TEST(core.output().events[0].code == errc::cancelled);
}

BOOST_AUTO_TEST_CASE(deadlines_and_stalls_end_requests_on_time) {
  simulator sim(small(), plain(), 1);
  user late = with(10, 200);
  late.request->deadline = 20'000'000;
  user& a = sim.add(late);
  user mute = with(10, 200);
  mute.request->credits = 5;
  mute.request->stall_limit = 50'000'000;
  mute.stops_reading = 0;
  user& b = sim.add(mute);
  user& c = sim.add(with(10, 200));
  go(sim);
  BOOST_TEST((a.end.reason == finish_reason::cancelled));
  BOOST_TEST(a.end.code == errc::deadline_exceeded);
  BOOST_TEST(a.ended_at == 20'000'000);
  BOOST_TEST(b.got.size() == 5u);
  BOOST_TEST(b.end.code == errc::deadline_exceeded);
  BOOST_TEST(b.ended_at >= 50'000'000);
  BOOST_TEST(b.ended_at < 70'000'000);
  BOOST_TEST(c.got.size() == 200u);
}

BOOST_AUTO_TEST_CASE(parked_streams_give_their_slots_to_those_that_wait) {
  simulator sim(small(), plain(), 1);
  for (int i = 0; i < 4; ++i) {
    user u = with(10, 20);
    u.request->credits = 2;
    u.reads_every = 500'000'000;
    sim.add(u);
  }
  user& quick = sim.add(with(10, 20, 10'000'000));
  go(sim);
  BOOST_TEST(quick.ended_at < 100'000'000);
  BOOST_TEST(sim.core.status().preemptions == 0u);  // slots only: their pages stayed
}

BOOST_AUTO_TEST_CASE(a_drained_scheduler_refuses_and_stops_the_ranks) {
  sched::scheduler core(small(), plain());
  cache::page_lists pages(1);
  for (page_id p = 0; p < 64; ++p) pages[0].push_back(p);
  core.lease_granted(pages, std::vector<std::uint32_t>{0});
  fake_rank rank(small());
  auto running = with(10, 200).request;
  running->id = 1;
  core.submit(running);
  rank.launch(*core.plan_step(0));
  core.drain(1000);
  auto refused = with(10, 5).request;
  refused->id = 2;
  core.submit(refused);
  BOOST_TEST(core.output().events.back().code == errc::draining);
  BOOST_TEST(core.next_deadline() == 1000);
  core.on_step_done(rank.run());
  core.output().events.clear();
  auto next = core.plan_step(999);
  BOOST_REQUIRE(next);
  rank.launch(*next);
  core.expire(1000);
  BOOST_REQUIRE(core.output().events.size() == 1u);
  BOOST_TEST((core.output().events[0].reason == finish_reason::cancelled));
  BOOST_TEST(core.output().events[0].code == errc::draining);
  BOOST_TEST(!core.plan_step(1000));
  core.on_step_done(rank.run());
  auto stop = core.plan_step(1000);
  BOOST_REQUIRE(stop);
  BOOST_TEST((stop->view().kind() == model::plan_kind::stop));
  BOOST_TEST(!core.drained());
  core.on_step_done({stop->view().seq(), {}, 0});
  BOOST_TEST(core.drained());
  BOOST_TEST(!core.plan_step(2000));
  BOOST_TEST(cache::n_pages_in(core.output().returns) == 64u);
}

BOOST_AUTO_TEST_CASE(an_answer_out_of_turn_is_a_breach) {
  sched::scheduler core(small(), plain());
  BOOST_CHECK_THROW(core.on_step_done({1, {}, 0}), troupe::error);
  core.fail_all(errc::internal, "stopped");
  BOOST_TEST(core.failed());
}

BOOST_AUTO_TEST_CASE(a_row_without_a_token_ends_its_request_with_the_reason) {
  for (const auto& [flag, words] : {std::pair{model::row_failed, "not finite"},
                                    {model::row_nothing_allowed, "allows no token"},
                                    {model::row_gate_closed, "did not come"}}) {
    sched::scheduler core(small(), plain());
    core.submit(with(3, 5).request);
    core.lease_granted({{0, 1, 2, 3}}, std::vector<std::uint32_t>{0});
    const auto plan = core.plan_step(0);
    BOOST_TEST_REQUIRE(plan);
    model::step_done done;
    done.seq = plan->view().seq();
    done.rows = {{plan->view().rows()[0].slot, -1, flag, 0}};
    core.on_step_done(done);
    const auto events = core.output().events;
    BOOST_TEST_REQUIRE(events.size() == 1u);
    BOOST_TEST((events[0].reason == finish_reason::error));
    BOOST_TEST(events[0].code == errc::internal);
    BOOST_TEST(events[0].message.find(words) != std::string::npos, events[0].message);
    BOOST_TEST(events[0].message.find("position 2") != std::string::npos, events[0].message);
  }
}

BOOST_AUTO_TEST_CASE(lower_priority_values_run_first_if_asked_for) {
  for (bool by_priority : {true, false}) {
    auto o = plain();
    o.by_priority = by_priority;
    simulator sim(small(), o, 1);
    for (int i = 0; i < 4; ++i) sim.add(with(10, 50));
    user unimportant = with(10, 10, 1);
    unimportant.request->priority = 5;
    user& first = sim.add(unimportant);
    user important = with(10, 10, 2);
    important.request->priority = -5;
    user& second = sim.add(important);
    for (int i = 0; i < 4; ++i) sim.add(with(10, 50, 3));
    go(sim);
    BOOST_TEST((second.end.admitted < first.end.admitted) == by_priority);
  }
}

BOOST_AUTO_TEST_CASE(a_tenant_with_many_requests_leaves_the_other_its_share) {
  simulator sim(small(), plain(), 1);
  std::vector<user*> many, few;
  for (int i = 0; i < 60; ++i) {
    user u = with(30, 20);
    u.request->tenant = 1;
    many.push_back(&sim.add(u));
  }
  for (int i = 0; i < 6; ++i) {
    user u = with(30, 20, 5'000'000);
    u.request->tenant = 2;
    few.push_back(&sim.add(u));
  }
  go(sim);
  sched::time_ns last = 0;
  for (user* u : few) last = std::max(last, u->ended_at);
  int served = 0;
  for (user* u : many) served += u->ended_at <= last;
  // Half of the work each, give or take what was running when the second tenant came.
  BOOST_TEST(served >= 4);
  BOOST_TEST(served <= 16);
}

BOOST_AUTO_TEST_CASE(a_step_with_fewer_tokens_than_slots_serves_everybody_evenly) {
  auto shape = small();
  shape.max_slots = 12;
  auto o = plain();
  o.max_batched_tokens = 5;
  simulator sim(shape, o, 1);
  for (int i = 0; i < 12; ++i) {
    user u = with(5, 40);
    u.request->credits = 3;  // streams that park and come back make more than five at a time
    u.reads_every = 9'000'000;
    sim.add(u);
  }
  go(sim);
  for (const user& u : sim.users) BOOST_TEST(longest_gap(u) < 9'000'000 + 3 * 1'300'000);
}

/// The promise of serving: a running stream waits for its next token no longer than the bound, however long the prompts
/// that arrive.
BOOST_AUTO_TEST_CASE(long_prompts_stall_a_running_stream_no_longer_than_the_bound) {
  for (std::uint32_t depth : {1u, 2u}) {
    auto shape = small(depth, 4000);
    shape.max_model_len = 20000;
    shape.max_batched_tokens = 4096;
    sched::scheduler_options o = plain();
    o.step_budget = 20'000'000;
    simulator sim(shape, o, 1, {.fixed = 2e6, .per_token = 5e4, .per_work = 8});
    for (int i = 0; i < 2; ++i) sim.add(with(500, 100));  // calibrates
    user& stream = sim.add(with(100, 1500, 1'000'000'000));
    user& huge = sim.add(with(15000, 5, 1'500'000'000));
    user& other = sim.add(with(8000, 5, 1'600'000'000));
    go(sim);
    const sched::time_ns bound = sim.core.stall_bound();
    BOOST_TEST_MESSAGE("stall bound " << bound << " ns, longest gap " << longest_gap(stream) << " ns");
    BOOST_TEST(huge.got.size() == 5u);
    BOOST_TEST(other.ended_at < huge.ended_at);  // the shorter prompt is not behind the longer one
    BOOST_TEST(stream.ended_at > huge.ended_at);
    BOOST_TEST(longest_gap(stream) < bound * 1.1);
    BOOST_TEST(bound < 30'000'000);
    // What the bound is worth: one full step at that depth alone takes far longer.
    sched::step_shape full;
    full.add(11000, 4096);
    BOOST_TEST(sim.core.costs().predict(full) > 10.0 * static_cast<double>(bound));
  }
}

BOOST_AUTO_TEST_CASE(a_decode_step_beyond_the_budget_still_lets_prompts_through) {
  auto shape = small();
  auto o = plain();
  o.step_budget = 1;
  simulator sim(shape, o, 1);
  sim.add(with(10, 200));
  user& prompt = sim.add(with(200, 3, 20'000'000));
  go(sim);
  BOOST_TEST(prompt.got.size() == 3u);
  BOOST_TEST(prompt.times[0] < 20'000'000 + 14 * 2 * 1'500'000);
}

BOOST_AUTO_TEST_CASE(steps_that_were_all_slow_hold_up_no_arrival) {
  auto o = plain();
  o.step_budget = 50'000'000;
  simulator sim(small(), o, 1, {.fixed = 5e8});
  sim.add(with(10, 20));
  user& later = sim.add(with(10, 3, 60'000'000'000));  // nothing else runs then
  go(sim);
  BOOST_TEST(later.got.size() == 3u);
}
