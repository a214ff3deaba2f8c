#pragma once
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "src/cache/page_store.hpp"
#include "src/sched/scheduler.hpp"
#include "tests/sched/fake_rank.hpp"

namespace troupe::test {

/// Device time of a step in the simulator.
struct true_cost {
  double fixed = 1e6, per_token = 2e4, per_work = 50;
  double of(const model::step_plan_view&) const;
};

/// What a user does with a request, and what came of it.
struct user {
  sched::request_ptr request;
  sched::time_ns arrives = 0;
  sched::time_ns cancels = sched::no_deadline;  ///< sets the flag, and sends the hint if `hints`
  bool hints = true;
  std::uint32_t finishes_at = 0;   ///< > 0: a stop string matches when this many tokens have come
  sched::time_ns reads_every = 0;  ///< > 0: takes its buffer in such intervals, all that is there
  sched::time_ns stops_reading = sched::no_deadline;
  bool fails = false;  ///< the model computes nonsense for it

  std::vector<token_id> expected;
  std::vector<token_id> got;
  std::vector<sched::time_ns> times;  ///< of the tokens
  sched::time_ns ended_at = 0;
  int ends = 0;
  sched::token_event end;
  std::uint32_t unread = 0;
};

/// Scheduler, cache and a rank in virtual time. Checks the rules of planning at every plan from what it sees of plans
/// and events alone, and at the end that everybody got what a lone run gives and that all pages are back.
class simulator {
 public:
  simulator(model::rank_shape, sched::scheduler_options, unsigned seed, true_cost cost = {});

  user& add(user);
  /// Until all have ended. Throws std::runtime_error with the first broken rule.
  void run();
  /// Drains, waits for the stop plan and checks that every page is free.
  void shut_down();

  std::deque<user> users;
  sched::scheduler core;
  cache::page_store store;
  fake_rank rank;
  sched::time_ns now = 0;
  std::uint64_t n_plans = 0;
  std::uint64_t n_mixed = 0;
  std::uint32_t most_rows = 0;
  sched::time_ns cache_delay = 0;  ///< messages to and from the cache take up to this long
  sched::time_ns rank_dies = sched::no_deadline;
  std::vector<std::vector<std::byte>> log;  ///< bytes of all plans, if keep_log
  bool keep_log = false;
  bool check_lone_runs = true;

 private:
  struct view {  ///< of a request, from its plans
    slot_id slot = sched::no_slot;
    bool drew = false;          ///< its last row drew a token
    std::uint32_t n_drawn = 0;  ///< rows that drew
    bool finished = false;      ///< ended, or cancelled: may be in no plan
  };
  void fail(const std::string& what) const;
  void deliver();
  void take(const sched::token_event&);
  void plan();
  void check_plan(const model::step_plan_view&);
  void check_books();
  void check_results() const;
  bool all_ended() const;
  void at(sched::time_ns, std::function<void()>);
  user* by_seed(std::uint64_t seed);

  model::rank_shape shape_;
  sched::scheduler_options options_;
  true_cost cost_;
  std::mt19937 random_;
  std::multimap<sched::time_ns, std::function<void()>> events_;
  sched::time_ns cache_busy_until_ = 0, sched_busy_until_ = 0;  ///< keep messages in order
  std::deque<double> durations_;
  sched::time_ns device_free_ = 0;
  std::map<std::uint64_t, view> views_;  ///< by seed
  bool dead_ = false;
};

}  // namespace troupe::test
