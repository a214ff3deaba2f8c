#pragma once
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "actors/runtime/supervisor.hpp"
#include "actors/sched/messages.hpp"
#include "src/mail/mailbox.hpp"
#include "src/model/backend.hpp"

namespace troupe {

/// The ranks of one engine as threads: for each a loop, an actor with its mailbox, and a watchdog.
///
/// Ranks of a group wait for one another within a step. So one that is lost takes the others with it, `end_group` makes
/// them return, and of a group that stands still the one that the others wait for is named as the cause.
/// Thread: construction, `start`, `stop` and destruction on the owner's; `give_up` and `end_group` on any.
class rank_threads {
 public:
  rank_threads(model::rank_group, std::chrono::milliseconds step_limit);
  ~rank_threads();

  const model::rank_shape& shape() const noexcept { return shape_; }
  std::uint32_t size() const noexcept { return static_cast<std::uint32_t>(members_.size()); }

  /// Makes the actors, which answer to the scheduler and tell the supervisor when they fail, and has them watched;
  /// their threads start with `run`. The functions make a sender each time.
  void start(const std::function<mail::sender<sched::message>()>& to_sched,
             const std::function<mail::sender<runtime::supervisor::message>()>& to_supervisor);
  void run();
  /// What hands a plan to all ranks; for one thread.
  std::function<void(std::shared_ptr<const model::step_plan>)> plan_sender();

  /// A watchdog is overdue: ranks between two polls leave their step, and none is waited for any longer. Gives the rank
  /// that is at fault and a sentence for a person.
  std::pair<std::uint32_t, std::string> give_up(const runtime::incident&);
  void end_group() noexcept;

  /// Joins all threads; one that does not come back in time is left behind with all that it uses.
  void stop() noexcept;
  /// After this time a step that hangs has been noticed, and a thread that can has left it.
  std::chrono::milliseconds overdue_for_sure() const;

 private:
  struct member;
  model::rank_shape shape_;
  model::rank_group group_;  ///< its backends belong to the actors once they are made
  const std::chrono::milliseconds step_limit_;
  std::shared_ptr<std::atomic<bool>> given_up_ = std::make_shared<std::atomic<bool>>(false);
  std::vector<std::unique_ptr<member>> members_;
};

}  // namespace troupe
