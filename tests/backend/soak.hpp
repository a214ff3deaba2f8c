#pragma once
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <map>
#include <random>
#include <set>

#include "src/cache/page_store.hpp"
#include "src/sched/scheduler.hpp"
#include "tests/backend/driver.hpp"
#include "tests/simt/emulated.hpp"

/// Scheduler, cache and a backend for many steps of a random load: requests come and are cancelled, pages run out, some
/// want their prompt's logits, steps are of all sizes. Any backend that gives the same tokens in any company.
namespace troupe::test {

struct soak_options {
  std::uint64_t steps = 10'000;
  unsigned seed = 1;
  bool prefix_cache = false;
  std::uint32_t most_open = 20;     ///< requests at a time
  std::uint32_t check_one_in = 40;  ///< of the requests that are run again alone
  std::vector<token_id> eos = {3, 5};
};

/// One of the two soaks that make 10^5 steps on a card; on emulated ones in short, every request checked.
inline soak_options card_soak(unsigned seed) {
  soak_options s;
  s.steps = emulated ? 100 : 50'000;
  s.seed = seed;
  s.check_one_in = emulated ? 1 : 60;
  return s;
}

class soak {
 public:
  soak(std::unique_ptr<model::backend> b, std::shared_ptr<recorder> sinks, const soak_options& o)
      : options_(o),
        backend_(std::move(b)),
        sinks_(std::move(sinks)),
        shape_(backend_->shape()),
        core_(shape_, policy(o)),
        store_(groups()),
        random_(o.seed) {}

  /// Runs, lets all end, and shuts down.
  void run() {
    while (core_.status().steps < options_.steps) turn(true);
    for (int i = 0; !open_.empty(); ++i) {
      BOOST_TEST_REQUIRE(i < 1'000'000);
      turn(false);
    }
    core_.drain(sched::no_deadline);
    for (int i = 0; i < 1000 && !core_.drained(); ++i) turn(false);
    BOOST_TEST_REQUIRE(core_.drained());
    deliver();
    for (std::size_t g = 0; g < store_.n_groups(); ++g) {
      const auto& pool = store_.pool(g);
      BOOST_TEST(pool.n_leased() == 0u);
      BOOST_TEST(pool.n_free() + pool.n_evictable() == pool.size());
    }
    const sched::scheduler_status s = core_.status();
    BOOST_TEST_MESSAGE(s.steps << " steps, " << n_submitted_ << " requests (" << n_cancelled_ << " cancelled), "
                               << s.output_tokens << " tokens, " << s.preemptions << " preemptions, "
                               << s.recomputed_tokens << " tokens recomputed, " << s.cached_tokens
                               << " from the cache, " << checks_.size() << " requests to run again alone");
    BOOST_TEST(s.preemptions > options_.steps / 500);
    BOOST_TEST(n_cancelled_ > options_.steps / 500);
    if (options_.prefix_cache) BOOST_TEST(s.cached_tokens > options_.steps / 10);
  }

  /// The sampled requests again, each alone.
  void check_alone(backend_driver& alone) const {
    BOOST_TEST_REQUIRE(checks_.size() > options_.steps / 1000);
    std::size_t n_logits = 0;
    for (const user& u : checks_) {
      const auto& r = *u.request;
      if (!u.got.empty())
        BOOST_TEST(alone.generate(r.prompt, u.got.size(), r.sampling, 48) == u.got, boost::test_tools::per_element());
      if (u.logits.empty()) continue;
      ++n_logits;
      const auto rows = alone.logits(r.prompt, 48);
      BOOST_TEST_REQUIRE(u.logits.size() <= rows.size());
      for (const auto& [position, row] : u.logits)
        BOOST_TEST((std::memcmp(row.data(), rows.at(position).data(), row.size() * sizeof(float)) == 0),
                   "logits of position " << position);
    }
    BOOST_TEST(n_logits > 0u);
  }

 private:
  struct user {
    sched::request_ptr request;
    std::vector<token_id> got;
    bool cancelled = false, checked = false;
    std::map<std::uint32_t, std::vector<float>> logits;
  };

  static sched::scheduler_options policy(const soak_options& o) {
    sched::scheduler_options p;
    p.eos_tokens = o.eos;
    p.min_chunk = 8;
    p.step_budget = 3'000'000;
    p.prefix_cache = o.prefix_cache;
    return p;
  }
  std::vector<cache::group_size> groups() const {
    std::vector<cache::group_size> out;
    for (std::size_t g = 0; g < shape_.groups.size(); ++g) out.push_back({shape_.n_pages[g], shape_.groups[g].window});
    return out;
  }
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }

  /// One step of the device, what it brings, and what the world does meanwhile.
  void turn(bool goes_on) {
    now_ += 1 + below(2'000'000);
    if (goes_on && open_.size() < options_.most_open && below(3) == 0) submit();
    if (!open_.empty() && below(60) == 0) cancel();
    core_.expire(now_);
    while (auto plan = core_.plan_step(now_)) {
      if (plan->view().kind() == model::plan_kind::stop) {
        stop_ = plan->view().seq();  // a rank's actor answers it by itself
        break;
      }
      backend_->launch(std::move(plan)).value();
      ++in_flight_;
    }
    deliver();
    if (in_flight_ > 0) {
      while (!backend_->poll(done_).value()) {
      }
      --in_flight_;
      if (done_.launch_ns == 0) BOOST_ERROR("a step was launched in no time");
      done_.device_ns = 100'000 + below(5'000'000);  // from which the scheduler learns how large chunks may be
      core_.on_step_done(done_);
      deliver();
    } else if (stop_) {
      done_ = {};
      done_.seq = std::exchange(stop_, 0);
      core_.on_step_done(done_);
      deliver();
    }
    if (core_.last_seq() % 32 == 0) {
      core_.audit();
      store_.audit();
    }
  }

  void submit() {
    user u;
    u.request = std::make_shared<sched::request_record>();
    auto& r = *u.request;
    r.id = ++n_submitted_;
    const std::uint32_t most = shape_.max_model_len;
    if (options_.prefix_cache && below(2)) r.prompt.assign(16 + 16 * below(3), static_cast<token_id>(10 + below(4)));
    for (std::uint32_t k = 1 + below(below(4) ? 40 : most / 2); k > 0; --k)
      r.prompt.push_back(static_cast<token_id>(below(shape_.vocab)));
    const auto room = most - static_cast<std::uint32_t>(r.prompt.size());
    r.max_tokens = std::min(room, 1 + below(below(4) ? 40 : most));
    r.priority = static_cast<std::int32_t>(below(3)) - 1;
    r.tenant = below(3);
    r.ignore_eos = below(2);
    r.sampling.temperature = below(3) ? 0.9f : 0.0f;
    if (below(4) == 0) r.sampling.top_p = 0.9f;
    if (below(4) == 0) r.sampling.top_k = 20;
    if (below(5) == 0) r.sampling.repetition_penalty = 1.2f;
    if (below(8) == 0) r.sampling.logit_bias = {{7, 2.0f}};
    r.seed = random_();
    r.sampling.seed = r.seed;
    u.checked = below(options_.check_one_in) == 0;
    if (below(8) == 0) {
      r.sink = static_cast<std::uint32_t>(r.id);
      if (below(2)) r.max_tokens = 0;
    }
    core_.submit(u.request);
    open_.emplace(r.id, std::move(u));
  }

  void cancel() {
    auto it = std::next(open_.begin(), below(static_cast<std::uint32_t>(open_.size())));
    it->second.cancelled = true;
    it->second.request->cancelled = true;
    if (below(2)) core_.cancel(it->first);
  }

  void deliver() {
    for (bool again = true; again;) {
      again = false;
      sched::scheduler_output& o = core_.output();
      for (const sched::token_event& e : std::exchange(o.events, {})) take(e);
      for (const auto& p : std::exchange(o.offers, {})) store_.publish(*p.tokens, p.salt, p.pages, p.last);
      if (cache::n_pages_in(o.returns)) {
        cache::page_lists back(o.returns.size());
        back.swap(o.returns);
        store_.give_back(back);
      }
      for (const auto& q : std::exchange(o.queries, {})) {
        const auto m = store_.lookup(std::span(*q.tokens).first(q.n_tokens), q.salt);
        core_.prefix_hit(q.id, m.n_tokens, m.pages);
        again = true;
      }
      if (o.want.empty()) continue;
      const auto want = std::exchange(o.want, {});
      const cache::page_lists pages = store_.lease(want);
      std::vector<std::uint32_t> available = store_.available();
      for (std::size_t g = 0; g < pages.size(); ++g)
        if (pages[g].size() < want[g]) available[g] = 0;
      core_.lease_granted(pages, available);
      again = true;
    }
  }

  void take(const sched::token_event& e) {
    const auto it = open_.find(e.id);
    BOOST_TEST_REQUIRE((it != open_.end()), "an event for request " << e.id << ", which has ended");
    user& u = it->second;
    if (e.token >= 0) u.got.push_back(e.token);
    if (e.reason == finish_reason::none) return;
    const auto& r = *u.request;
    switch (e.reason) {
      case finish_reason::length:
        BOOST_TEST(u.got.size() == *r.max_tokens);
        break;
      case finish_reason::stop:
        BOOST_TEST((!r.ignore_eos && std::ranges::find(options_.eos, u.got.back()) != options_.eos.end()));
        break;
      case finish_reason::cancelled:
        BOOST_TEST(u.cancelled);
        ++n_cancelled_;
        break;
      default:
        BOOST_ERROR("request " << e.id << " failed: " << e.message);
    }
    if (r.sink) {
      u.logits = std::move(sinks_->at(r.sink)->rows);
      if (e.reason != finish_reason::cancelled) BOOST_TEST(u.logits.size() == r.prompt.size());
      sinks_->forget(r.sink);
    }
    if (u.checked) checks_.push_back(std::move(u));
    open_.erase(it);
  }

  soak_options options_;
  std::unique_ptr<model::backend> backend_;
  std::shared_ptr<recorder> sinks_;
  model::rank_shape shape_;
  sched::scheduler core_;
  cache::page_store store_;
  std::mt19937 random_;
  sched::time_ns now_ = 1;
  std::uint32_t in_flight_ = 0;
  step_seq stop_ = 0;
  model::step_done done_;
  std::map<request_id, user> open_;
  std::vector<user> checks_;
  std::uint64_t n_submitted_ = 0, n_cancelled_ = 0;
};

/// Both without and with the prefix cache: make(sinks) is a backend under a random load, alone() a driver of a like
/// one.
template <class Make, class Alone>
void check_soaks(soak_options o, const Make& make, const Alone& alone) {
  for (const bool prefix_cache : {false, true}) {
    o.prefix_cache = prefix_cache;
    auto sinks = std::make_shared<recorder>();
    soak run(make(sinks), sinks, o);
    run.run();
    auto d = alone();
    run.check_alone(d);
    ++o.seed;
  }
}

}  // namespace troupe::test
