#include "actors/sched/actor.hpp"

#include <algorithm>
#include <exception>

#include "src/base/log.hpp"

namespace troupe::sched {
namespace {

time_ns steady_now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

actor::actor(actor_options o)
    : core_(o.shape, std::move(o.policy)),
      clock_(o.clock ? std::move(o.clock) : steady_now),
      depth_(o.shape.depth),
      answered_(std::max(o.n_ranks, 1u)) {}

actor::~actor() {
  const auto say = [](const char* which, const host_times& t) {
    if (t.launch.count() > 0)
      log().debug("scheduler: {} {}: planned in {}, launched in {}", t.launch.count(), which, t.planning.text(),
                  t.launch.text());
  };
  say("decode steps", decode_steps_);
  say("other steps", other_steps_);
}

/// Runs a call of the core. Its exceptions are breaches of its books: going on could mix two requests' pages.
template <class F>
void actor::guarded(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    if (!breach_) breach_ = e.what();
    core_.fail_all(errc::internal, std::string("the scheduler stopped: ") + e.what());
  }
}

void actor::on(submit&& m, outbox&) {
  guarded([&] { core_.submit(std::move(m.request)); });
}
void actor::on(cancel&& m, outbox&) {
  guarded([&] { core_.cancel(m.id); });
}
void actor::on(finish&& m, outbox&) {
  guarded([&] { core_.finish(m.id, m.n_tokens); });
}
void actor::on(resume&& m, outbox&) {
  guarded([&] { core_.resume(m.id, m.n_tokens, now()); });
}
void actor::on(step_done&& m, outbox& out) {
  guarded([&] {
    if (m.rank >= answered_.size()) throw error(errc::internal, "an answer came from a rank that does not exist");
    answered_[m.rank] = std::max(answered_[m.rank], m.done.seq);
    if (m.rank != 0) return;
    const time_ns begin = now();
    core_.on_step_done(m.done);
    measure(m.done, now() - begin, out);
  });
}
void actor::on(cache::lease_granted&& m, outbox&) {
  guarded([&] { core_.lease_granted(m.pages, m.available); });
}
void actor::on(cache::prefix_hit&& m, outbox&) {
  guarded([&] { core_.prefix_hit(m.id, m.n_tokens, m.pages); });
}
void actor::on(rank_failed&& m, outbox&) {
  guarded([&] { core_.fail_all(errc::rank_failed, "rank " + std::to_string(m.rank) + " was lost: " + m.message); });
}
void actor::on(drain&& m, outbox&) {
  draining_ = true;
  guarded([&] { core_.drain(m.deadline); });
}

bool actor::ranks_have_room() const {
  const step_seq slowest = *std::min_element(answered_.begin(), answered_.end());
  return core_.last_seq() - slowest < depth_;
}

void actor::hand_over(std::shared_ptr<const model::step_plan> plan, time_ns begin, outbox& out) {
  const model::step_plan_view v = plan->view();  // no longer to be looked at once it is sent
  const bool runs = v.kind() == model::plan_kind::run;
  planned_step step{v.seq(), !v.rows().empty(), 0};
  for (const model::plan_row& row : v.rows()) step.decodes &= row.kind == model::row_kind::decode;
  out.plan(std::move(plan));
  step.spent = now() - begin;
  if (runs) planned_.push_back(step);
}

void actor::measure(const model::step_done& done, time_ns spent, outbox& out) {
  if (planned_.empty() || planned_.front().seq != done.seq) return;
  const planned_step step = planned_.front();
  planned_.pop_front();
  const step_times t{done.device_ns, static_cast<std::uint64_t>(step.spent + spent), done.launch_ns};
  host_times& kept = step.decodes ? decode_steps_ : other_steps_;
  kept.planning.add(t.plan_ns);
  kept.launch.add(t.launch_ns);
  if (out.measured) out.measured(t);
}

void actor::settle(outbox& out) {
  guarded([&] {
    const time_ns t = now();
    core_.expire(t);
    while (ranks_have_room()) {
      const time_ns begin = now();
      auto plan = core_.plan_step(t);
      if (!plan) break;
      hand_over(std::move(plan), begin, out);
    }
  });
  deliver(out);
}

std::optional<actor::time_point> actor::next_deadline() const {
  const time_ns t = core_.next_deadline();
  if (t == no_deadline) return std::nullopt;
  return time_point(std::chrono::nanoseconds(t));
}

void actor::on_deadline(time_point now, outbox&) {
  guarded([&] { core_.expire(std::chrono::duration_cast<std::chrono::nanoseconds>(now.time_since_epoch()).count()); });
}

void actor::deliver(outbox& out) {
  scheduler_output& o = core_.output();
  const std::size_t n_events = o.events.size();
  const bool one_shard =
      std::all_of(o.events.begin(), o.events.end(), [&](const token_event& e) { return e.shard == o.events[0].shard; });
  if (n_events && one_shard) {
    const std::uint32_t shard = o.events[0].shard;
    out.tokens(shard, token_batch(std::exchange(o.events, {})));
    o.events.reserve(n_events);  // the next step's will be about as many
  }
  for (token_event& e : o.events) {
    if (e.shard >= batches_.size()) batches_.resize(e.shard + 1);
    batches_[e.shard].push_back(std::move(e));
  }
  o.events.clear();
  for (std::uint32_t shard = 0; shard < batches_.size(); ++shard)
    if (!batches_[shard].empty()) out.tokens(shard, token_batch(std::exchange(batches_[shard], {})));

  for (prefix_offer& p : o.offers)
    out.publish(cache::prefix_publish(std::move(p.tokens), std::move(p.salt), std::move(p.pages), p.last));
  o.offers.clear();
  if (cache::n_pages_in(o.returns) > 0) {
    cache::page_lists back(o.returns.size());
    back.swap(o.returns);
    out.give_back(cache::lease_return(std::move(back)));
  }
  for (prefix_query& q : o.queries)
    out.lookup(cache::prefix_lookup(q.id, std::move(q.tokens), q.n_tokens, std::move(q.salt)));
  o.queries.clear();
  if (!o.want.empty()) out.want(cache::lease_want(std::exchange(o.want, {})));

  if (breach_) {
    if (out.failed) out.failed(sched::failed(*breach_));
    breach_.reset();
  }
  const bool all_stopped = core_.drained() && std::all_of(answered_.begin(), answered_.end(),
                                                          [&](step_seq s) { return s == core_.last_seq(); });
  if (draining_ && !drained_sent_ && (core_.failed() || all_stopped)) {
    drained_sent_ = true;
    if (out.drained) out.drained(sched::drained{});
  }
}

}  // namespace troupe::sched
