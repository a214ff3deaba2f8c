#include "tests/sched/simulator.hpp"

#include <algorithm>
#include <stdexcept>

namespace troupe::test {

using model::row_output;
using sched::no_deadline;

namespace {

std::vector<cache::group_size> groups_of(const model::rank_shape& s) {
  std::vector<cache::group_size> g;
  for (std::size_t i = 0; i < s.groups.size(); ++i) g.push_back({s.n_pages[i], s.groups[i].window});
  return g;
}

bool draws(const model::plan_row& r) {
  return r.output == row_output::sample || r.output == row_output::sample_logprobs;
}

}  // namespace

double true_cost::of(const model::step_plan_view& v) const {
  sched::step_shape s;
  for (const auto& r : v.rows()) s.add(r.position, r.n_tokens);
  return fixed + per_token * s.tokens + per_work * s.work;
}

simulator::simulator(model::rank_shape shape, sched::scheduler_options options, unsigned seed, true_cost cost)
    : core(shape, options),
      store(groups_of(shape)),
      rank(shape),
      shape_(shape),
      options_(std::move(options)),
      cost_(cost),
      random_(seed) {
  if (options_.max_batched_tokens == 0) options_.max_batched_tokens = shape_.max_batched_tokens;
}

void simulator::fail(const std::string& what) const {
  throw std::runtime_error("at " + std::to_string(now) + " ns, plan " + std::to_string(core.last_seq()) + ": " + what);
}

void simulator::at(sched::time_ns when, std::function<void()> f) { events_.emplace(when, std::move(f)); }

user* simulator::by_seed(std::uint64_t seed) { return seed - 1 < users.size() ? &users[seed - 1] : nullptr; }

user& simulator::add(user u) {
  u.request->id = users.size() + 1;
  u.request->seed = u.request->id;
  std::vector<token_id> stop = u.request->stop_token_ids;
  if (!u.request->ignore_eos) stop.insert(stop.end(), options_.eos_tokens.begin(), options_.eos_tokens.end());
  std::uint32_t most = shape_.max_model_len - std::min<std::uint32_t>(shape_.max_model_len, u.request->prompt.size());
  if (u.request->max_tokens) most = std::min(most, *u.request->max_tokens);
  u.expected = lone_run(u.request->prompt, u.request->seed, shape_.vocab, most, stop);
  users.push_back(std::move(u));
  user& x = users.back();
  at(x.arrives, [this, &x] { core.submit(x.request); });
  if (x.cancels != no_deadline)
    at(x.cancels, [this, &x] {
      x.request->cancelled = true;
      views_[x.request->seed].finished = true;
      if (x.hints) core.cancel(x.request->id);
    });
  return x;
}

bool simulator::all_ended() const {
  return std::all_of(users.begin(), users.end(), [](const user& u) { return u.ends > 0; });
}

void simulator::take(const sched::token_event& e) {
  user& u = users.at(e.id - 1);
  if (u.ends) fail("an event after the last one of request " + std::to_string(e.id));
  if (e.token >= 0) {
    u.got.push_back(e.token);
    u.times.push_back(now);
    ++u.unread;
    if (u.request->credits != sched::unlimited_credits && u.unread > u.request->credits)
      fail("a stream is further ahead of its reader than its credits allow");
  }
  if (e.reason != finish_reason::none) {
    ++u.ends;
    u.end = e;
    u.ended_at = now;
    views_[u.request->seed].finished = true;
    return;
  }
  if (u.finishes_at && u.got.size() == u.finishes_at) {
    // The text shard needs a moment to match its stop string.
    at(now + static_cast<sched::time_ns>(random_() % 2'000'000), [this, &u] {
      if (u.ends) return;
      core.finish(u.request->id, u.finishes_at);
      views_[u.request->seed].finished = true;
    });
  }
  if (u.reads_every && now < u.stops_reading && u.unread == 1)
    at(now + u.reads_every, [this, &u] {
      const std::uint32_t n = std::exchange(u.unread, 0);
      core.resume(u.request->id, n, now);
    });
}

/// Carries messages between scheduler and cache, in order, with the delay asked for.
void simulator::deliver() {
  sched::scheduler_output& o = core.output();
  for (const auto& e : std::exchange(o.events, {})) take(e);
  std::vector<std::function<void()>> to_cache;
  for (auto& p : std::exchange(o.offers, {}))
    to_cache.push_back([this, p = std::move(p)] { store.publish(*p.tokens, p.salt, p.pages, p.last); });
  if (cache::n_pages_in(o.returns)) {
    cache::page_lists back(o.returns.size());
    back.swap(o.returns);
    to_cache.push_back([this, back = std::move(back)] { store.give_back(back); });
  }
  auto answer = [this](std::function<void()> f) {
    sched_busy_until_ =
        std::max(sched_busy_until_, now + (cache_delay ? static_cast<sched::time_ns>(random_()) % cache_delay : 0));
    at(sched_busy_until_, std::move(f));
  };
  for (auto& q : std::exchange(o.queries, {}))
    to_cache.push_back([this, q = std::move(q), answer] {
      auto m = store.lookup(std::span(*q.tokens).first(q.n_tokens), q.salt);
      answer([this, id = q.id, m = std::move(m)] { core.prefix_hit(id, m.n_tokens, m.pages); });
    });
  if (!o.want.empty())
    to_cache.push_back([this, want = std::exchange(o.want, {}), answer] {
      cache::page_lists pages = store.lease(want);
      std::vector<std::uint32_t> available = store.available();
      for (std::size_t g = 0; g < pages.size(); ++g)
        if (pages[g].size() < want[g]) available[g] = 0;
      answer(
          [this, pages = std::move(pages), available = std::move(available)] { core.lease_granted(pages, available); });
    });
  if (to_cache.empty()) return;
  cache_busy_until_ =
      std::max(cache_busy_until_, now + (cache_delay ? static_cast<sched::time_ns>(random_()) % cache_delay : 0));
  for (auto& f : to_cache) at(cache_busy_until_, std::move(f));
}

void simulator::check_plan(const model::step_plan_view& v) {
  std::uint32_t n_decode = 0, n_chunk_rows = 0;
  if (v.n_tokens() > options_.max_batched_tokens) fail("the token budget is overrun");
  for (const auto& a : v.admits()) {
    user* u = by_seed(a.seed);
    if (!u) fail("an admission with a seed of nobody");
    view& w = views_[a.seed];
    if (w.finished) fail("a request is admitted after its end");
    w.slot = a.slot;
    w.drew = false;
    const auto& h = rank.slot_of(a.slot).history;
    const auto& p = u->request->sampling;
    if (p.repetition_penalty != 1.0f) {
      std::vector<token_id> known = u->request->prompt;
      known.insert(known.end(), u->got.begin(), u->got.end());
      if (h != known) fail("the penalty history is not prompt and output");
    } else if (!h.empty()) {
      fail("a history nobody needs");
    }
    if (a.prompt_length != u->request->prompt.size()) fail("a wrong prompt length");
  }
  std::set<std::uint64_t> present;
  for (const auto& r : v.rows()) {
    const std::uint64_t seed = rank.slot_of(r.slot).seed;
    view& w = views_[seed];
    present.insert(seed);
    if (w.finished) fail("request " + std::to_string(seed) + " is planned after its end");
    (r.kind == model::row_kind::decode ? n_decode : n_chunk_rows) += 1;
    if (r.kind == model::row_kind::decode && r.n_tokens != 1) fail("a decode row of several tokens");
    w.drew = draws(r);
    w.n_drawn += draws(r);
    user* u = by_seed(seed);
    const std::uint32_t most = u->request->max_tokens.value_or(shape_.max_model_len);
    if (u->got.size() > most || r.position + r.n_tokens + draws(r) > u->request->prompt.size() + most)
      fail("the length limit is overrun");
  }
  // Whoever could decode does, before any prompt.
  if (n_chunk_rows > 0 && n_decode < options_.max_batched_tokens)
    for (const auto& [seed, w] : views_) {
      if (w.finished || !w.drew || present.contains(seed)) continue;
      if (w.slot == sched::no_slot || rank.slot_of(w.slot).seed != seed || !rank.slot_of(w.slot).bound) continue;
      const user& u = *by_seed(seed);
      const std::int64_t next = rank.slot_of(w.slot).next;
      const std::uint32_t n_prompt = static_cast<std::uint32_t>(u.request->prompt.size());
      const std::uint32_t planned = static_cast<std::uint32_t>(next) + 1 - n_prompt;
      if (planned >= u.request->max_tokens.value_or(shape_.max_model_len - n_prompt)) continue;
      if (u.request->credits != sched::unlimited_credits && planned - (u.got.size() - u.unread) >= u.request->credits)
        continue;
      fail("a prompt goes before request " + std::to_string(seed) + ", which could decode");
    }
  n_mixed += n_decode > 0 && n_chunk_rows > 0;
  most_rows = std::max<std::uint32_t>(most_rows, static_cast<std::uint32_t>(v.rows().size()));
}

void simulator::plan() {
  while (auto p = core.plan_step(now)) {
    ++n_plans;
    if (keep_log) log.emplace_back(p->bytes().begin(), p->bytes().end());
    rank.launch(*p);
    if (!rank.breaches.empty()) fail(rank.breaches.front());
    check_plan(p->view());
    core.audit();
    const double ns = cost_.of(p->view());
    device_free_ = std::max(device_free_, now) + static_cast<sched::time_ns>(ns);
    at(device_free_, [this, ns] {
      if (dead_) return;
      std::set<std::uint64_t> failing;
      for (const user& u : users)
        if (u.fails) failing.insert(u.request->seed);
      model::step_done d = rank.run(failing);
      d.device_ns = static_cast<std::uint64_t>(ns);
      if (!rank.breaches.empty()) fail(rank.breaches.front());
      core.on_step_done(d);
    });
  }
}

void simulator::check_books() {
  core.audit();
  store.audit();
}

void simulator::run() {
  if (rank_dies != no_deadline)
    at(rank_dies, [this] {
      dead_ = true;
      core.fail_all(errc::rank_failed, "rank 0 was lost");
    });
  while (!all_ended()) {
    plan();
    deliver();
    check_books();
    if (all_ended()) break;
    sched::time_ns next = core.next_deadline();
    if (!events_.empty()) next = std::min(next, events_.begin()->first);
    if (next == no_deadline) fail("nothing will ever happen again, and requests are open");
    now = std::max(now, next);
    core.expire(now);
    while (!events_.empty() && events_.begin()->first <= now) {
      auto f = std::move(events_.begin()->second);
      events_.erase(events_.begin());
      f();
      deliver();
      check_books();
    }
  }
  check_results();
}

void simulator::check_results() const {
  for (const user& u : users) {
    const std::string who = "request " + std::to_string(u.request->id) + " ";
    if (u.ends != 1) fail(who + "did not end once");
    if (!check_lone_runs) continue;
    if (u.got.size() > u.expected.size() || !std::equal(u.got.begin(), u.got.end(), u.expected.begin()))
      fail(who + "got other tokens than a lone run gives");
    if (u.end.reason == finish_reason::length && u.got.size() != u.expected.size()) fail(who + "was cut short");
    if (u.end.reason == finish_reason::stop && u.end.token >= 0 && u.got != u.expected) fail(who + "stopped early");
    if (u.end.reason == finish_reason::stop && u.end.token < 0 && !u.finishes_at) fail(who + "stopped for nothing");
    if (u.end.reason == finish_reason::cancelled && u.cancels == no_deadline && u.request->deadline == no_deadline &&
        u.stops_reading == no_deadline)
      fail(who + "was cancelled by nobody");
    if (u.end.code == errc::context_exceeded &&
        u.request->prompt.size() + u.request->max_tokens.value_or(1) > shape_.max_model_len)
      continue;
    if (u.end.reason == finish_reason::error && !u.fails && !dead_) fail(who + "failed: " + u.end.message);
  }
}

void simulator::shut_down() {
  core.drain(no_deadline);
  for (int i = 0; i < 100000 && !(core.drained() && events_.empty()); ++i) {
    plan();
    deliver();
    if (events_.empty()) {
      if (core.failed() || core.drained()) break;
      fail("the drain does not end");
    }
    now = std::max(now, events_.begin()->first);
    auto f = std::move(events_.begin()->second);
    events_.erase(events_.begin());
    f();
    deliver();
    check_books();
  }
  for (std::size_t g = 0; g < store.n_groups(); ++g) {
    const auto& pool = store.pool(g);
    if (pool.n_leased() || pool.n_free() + pool.n_evictable() != pool.size())
      fail("pages are lost: " + std::to_string(pool.n_leased()) + " leased, " + std::to_string(pool.n_free()) +
           " free");
  }
}

}  // namespace troupe::test
