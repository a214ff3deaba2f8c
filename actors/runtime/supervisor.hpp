#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <variant>
#include <vector>

#include "actors/runtime/actor_cell.hpp"
#include "actors/runtime/watchdog.hpp"

namespace troupe::runtime {

/// A rank cannot go on.
struct rank_failed {
  rank_failed(std::uint32_t rank, std::error_code error, std::string text)
      : rank(rank), error(error), text(std::move(text)) {}
  std::uint32_t rank;
  std::error_code error;
  std::string text;
};

/// A part of the engine has ended as it was told to.
struct stopped {
  explicit stopped(std::string who) : who(std::move(who)) {}
  std::string who;
};

/// A step has not come back in time, by the scheduler's own account.
struct step_overdue {
  std::uint64_t seq;
  std::uint32_t rank;
};

/// Watch this from now on. Given before the watched thread first works, or soon after.
struct watch {
  explicit watch(std::shared_ptr<const watchdog> dog, std::uint32_t rank = 0) : dog(std::move(dog)), rank(rank) {}
  std::shared_ptr<const watchdog> dog;
  std::uint32_t rank;
};

/// Stop watching: its thread is about to leave.
struct unwatch {
  explicit unwatch(std::shared_ptr<const watchdog> dog) : dog(std::move(dog)) {}
  std::shared_ptr<const watchdog> dog;
};

/// What the supervisor makes of it, for whoever knows the smallest scope that a fault has to take down.
struct incident {
  enum class kind { rank_failed, step_overdue, watchdog_overdue };

  kind what;
  std::uint32_t rank = 0;
  std::uint64_t step = 0;  ///< of step_overdue
  std::error_code error;   ///< of rank_failed
  std::string text;        ///< one sentence for a person
};

/// Notices that something is lost, and says so from a thread of its own while control and ranks may hang.
///
/// Owns: the list of watchdogs. Thread: `watch`, its own, asleep but for a look at the watchdogs four times per the
/// shortest limit. Invariants: `on_fault` is called once per lost rank, once per overdue step, and once per time that a
/// watchdog stands still; never concurrently with itself. Signals are the server's business, not a library's.
///
/// A watchdog is overdue when it was busy at the same count in all looks over its limit, so a report comes between one
/// and one and a quarter limits after the last progress.
class supervisor {
 public:
  using message = std::variant<rank_failed, stopped, step_overdue, watch, unwatch>;

  struct outbox {
    std::function<void(const incident&)> on_fault;
    std::function<void(const std::string& who)> on_stopped;  ///< may be empty
  };

  void on(const rank_failed&, outbox&);
  void on(const stopped&, outbox&);
  void on(const step_overdue&, outbox&);
  void on(const watch&, outbox&);
  void on(const unwatch&, outbox&);
  void on(tick, outbox&);

  std::optional<time_point> next_deadline() const { return next_look_; }

 private:
  struct watched {
    std::shared_ptr<const watchdog> dog;
    std::uint32_t rank = 0;
    std::uint64_t count = 0;
    std::optional<time_point> still_since;  // the first look that saw it busy at `count`
    bool reported = false;
  };

  void plan_look(time_point now);

  std::vector<watched> watched_;
  std::vector<std::uint32_t> lost_;       // ranks
  std::optional<std::uint64_t> overdue_;  // the last step reported
  std::optional<time_point> next_look_;
};

}  // namespace troupe::runtime
