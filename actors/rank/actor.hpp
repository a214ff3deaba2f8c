#pragma once
#include <memory>
#include <string>

#include "actors/rank/messages.hpp"
#include "actors/sched/messages.hpp"
#include "src/model/backend.hpp"

/// A rank: executes plans in order of their number and answers each.
///
/// Owns: the backend. Thread: its loop, on which a CPU backend computes. Invariants: a plan whose number is not the
/// last one's plus one is refused; after a failure, or once it was given up, nothing is executed any more.
namespace troupe::rank {

/// Where a rank's messages go: to the scheduler, and a failure to the supervisor too.
class outbox {
 public:
  virtual ~outbox() = default;
  virtual void send(sched::step_done&&) = 0;
  virtual void send(sched::rank_failed&&) = 0;
  /// A step starts or has ended: what the watchdog looks at.
  virtual void step_started() {}
  virtual void step_ended() {}
  /// The watchdog has called this rank lost: nobody waits for the step any more.
  virtual bool given_up() const { return false; }
};

class rank_actor {
 public:
  using message = rank::message;

  rank_actor(std::uint32_t rank, std::unique_ptr<model::backend> backend);

  void on(step_plan&&, outbox&);
  /// Looks once whether the oldest plan on the device is done. True: there is more to look at; the loop calls again,
  /// messages in between. Never throws what `failed` would have to tell: a failure is told here.
  bool advance(outbox&);
  void failed(message&, std::exception_ptr, outbox&);

 private:
  void fail(std::string what, outbox&);
  void failed(std::exception_ptr, outbox&);

  std::uint32_t rank_;
  std::unique_ptr<model::backend> backend_;
  step_seq last_ = 0;
  std::uint32_t in_flight_ = 0;
  bool lost_ = false;
};

}  // namespace troupe::rank
