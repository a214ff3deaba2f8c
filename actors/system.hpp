#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "actors/sched/messages.hpp"
#include "actors/text/actor.hpp"
#include "actors/text/messages.hpp"
#include "src/mail/mailbox.hpp"
#include "src/model/backend.hpp"
#include "src/watch/engine_metrics.hpp"

namespace troupe {

/// What the actors are made of; the engine loads it.
struct actor_parts {
  text::text_model text;
  model::rank_group ranks;
  std::vector<token_id> eos;
  std::uint32_t n_text_shards = 1;
  std::uint32_t max_requests = 256;
  bool fold = false;
  bool warm_up = false;                           ///< graphs before the first request
  std::chrono::milliseconds step_limit{120'000};  ///< a rank that works longer on a step is lost
  std::shared_ptr<watch::engine_metrics> metrics;
  std::function<void(std::string)> on_rank_lost;  ///< once, on an engine thread
};

/// A glance at the scheduler; exact when idle.
struct system_status {
  std::uint64_t running = 0, waiting = 0, pages_total = 0, pages_free = 0, steps = 0;
  bool failed = false;  ///< a rank was lost; true before the scheduler hears of it
};

/// The actors of one engine, their threads and mailboxes. Thread: construction and destruction on the owner's, the rest
/// on any.
class actor_system {
 public:
  explicit actor_system(actor_parts);
  ~actor_system();

  std::uint32_t n_text_shards() const noexcept;
  mail::sender<text::message> text_sender(std::uint32_t shard);
  mail::sender<sched::message> sched_sender();
  system_status status() const;

  /// Lets running requests end until the deadline, then cancels them and stops the ranks. `done` runs once on the
  /// control thread. A later call with an earlier deadline hastens the first.
  void drain(std::chrono::steady_clock::time_point deadline, std::function<void()> done);
  /// Drains at once and joins all threads. A rank whose thread does not come back is left to itself once the watchdog
  /// has called it lost, with all that it uses: so this takes one and a half step limits and a few seconds at most.
  void shut() noexcept;

 private:
  class wiring;
  std::unique_ptr<wiring> wiring_;
};

}  // namespace troupe
