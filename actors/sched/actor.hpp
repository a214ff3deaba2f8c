#pragma once
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "actors/sched/messages.hpp"
#include "src/base/recent_times.hpp"
#include "src/sched/scheduler.hpp"

namespace troupe::sched {

/// Where the scheduler's messages go. `plan` reaches every rank, `tokens` the text shard of that index, the next four
/// the cache actor, in the order in which they are called.
struct outbox {
  std::function<void(std::shared_ptr<const model::step_plan>)> plan;
  std::function<void(std::uint32_t shard, token_batch&&)> tokens;
  std::function<void(cache::prefix_publish&&)> publish;
  std::function<void(cache::lease_return&&)> give_back;
  std::function<void(cache::prefix_lookup&&)> lookup;
  std::function<void(cache::lease_want&&)> want;
  std::function<void(const step_times&)> measured;  ///< of each step that rank 0 has done
  std::function<void(sched::drained&&)> drained;
  std::function<void(sched::failed&&)> failed;
};

struct actor_options {
  model::rank_shape shape;
  scheduler_options policy;
  std::uint32_t n_ranks = 1;
  std::function<time_ns()> clock;  ///< empty: the steady clock
};

/// The scheduler: the one brain of the engine.
///
/// Owns: all sequences, slots, the lease of pages, the numbering of plans. Thread: control.
/// Invariants: handlers only note what happened; plans and answers leave in settle, which the runtime calls after each
/// batch of messages, plans first. At most `depth` plans are unanswered by any rank. Every submit gets exactly one last
/// event, also when the scheduler itself fails: a breach of its books ends all requests and is reported by `failed`.
class actor {
 public:
  using message = sched::message;
  using outbox = sched::outbox;
  using time_point = std::chrono::steady_clock::time_point;

  explicit actor(actor_options);
  ~actor();  ///< tells the log what the last steps cost the host

  void on(submit&&, outbox&);
  void on(cancel&&, outbox&);
  void on(finish&&, outbox&);
  void on(resume&&, outbox&);
  void on(step_done&&, outbox&);
  void on(cache::lease_granted&&, outbox&);
  void on(cache::prefix_hit&&, outbox&);
  void on(rank_failed&&, outbox&);
  void on(drain&&, outbox&);

  void begin(outbox& out) { settle(out); }  ///< graphs to capture before the first request
  void settle(outbox&);
  std::optional<time_point> next_deadline() const;
  void on_deadline(time_point now, outbox&);
  /// The runtime's tick, whatever its type: the actor does not include the runtime.
  template <class Tick>
    requires requires(Tick t) { time_point(t.now); }
  void on(Tick t, outbox& out) {
    on_deadline(t.now, out);
  }

  const scheduler& core() const { return core_; }

 private:
  /// A plan of kind run that rank 0 has not answered.
  struct planned_step {
    step_seq seq;
    bool decodes;  ///< and does nothing else
    time_ns spent;
  };
  struct host_times {
    recent_times planning, launch;
  };

  template <class F>
  void guarded(F&&);
  void hand_over(std::shared_ptr<const model::step_plan>, time_ns begin, outbox&);
  void measure(const model::step_done&, time_ns spent, outbox&);
  void deliver(outbox&);
  time_ns now() const { return clock_(); }
  bool ranks_have_room() const;

  scheduler core_;
  std::function<time_ns()> clock_;
  std::uint32_t depth_;
  std::vector<step_seq> answered_;                 ///< per rank: the last plan it has done
  std::vector<std::vector<token_event>> batches_;  ///< per shard, empty between calls
  std::deque<planned_step> planned_;
  host_times decode_steps_, other_steps_;
  std::optional<std::string> breach_;  ///< what to report by `failed`
  bool draining_ = false;
  bool drained_sent_ = false;
};

}  // namespace troupe::sched
