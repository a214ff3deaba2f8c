#pragma once
#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "actors/runtime/fault.hpp"
#include "actors/runtime/loop.hpp"
#include "src/mail/waker.hpp"

namespace troupe::runtime {

using time_point = std::chrono::steady_clock::time_point;

/// The part of an actor cell that does not depend on the actor's type: the loop coroutine, its waker and its alarm,
/// compiled once. What runs an actor is `actor_cell`; it has the contract.
///
/// Owns: the coroutine. Thread: the loop's, where not said otherwise. Invariants: the coroutine is suspended in one of
/// two ways, yielding (its resumption is posted) or parked (exactly one of a sender's wake and the alarm resumes it).
class cell_base {
 public:
  cell_base(const cell_base&) = delete;
  cell_base& operator=(const cell_base&) = delete;
  virtual ~cell_base();

  /// Any thread: the actor ends once its mailbox is drained.
  virtual void close() noexcept = 0;
  /// Any thread: the actor has taken its last message and run its last hook.
  bool ended() const noexcept { return ended_.load(std::memory_order_acquire); }
  /// Blocks until then, or until the loop's thread has left; not from that thread.
  void wait_ended() const;
  const std::string& name() const noexcept { return name_; }

 protected:
  static constexpr std::size_t batch_limit = 64;  ///< messages handled before timers and sockets get their turn

  cell_base(loop& on, std::string name);

  void launch();         ///< starts the loop coroutine
  void shut() noexcept;  ///< first statement of the final class's destructor, while its members live

  virtual std::size_t take_turn(bool due) noexcept = 0;  ///< one batch; how many messages it had
  virtual bool drained() const noexcept = 0;
  virtual bool park(mail::waker) noexcept = 0;
  virtual bool take_back_park() noexcept = 0;
  virtual void disarm() noexcept = 0;
  virtual void begin() noexcept = 0;
  virtual void end() noexcept = 0;
  virtual std::optional<time_point> deadline() noexcept = 0;

 private:
  friend class loop;
  struct routine;
  struct anchor;
  struct idle;
  struct yield;
  struct resumption;

  routine run();
  void resume();
  void set_alarm(time_point);
  void on_alarm();

  loop& loop_;
  const std::string name_;
  std::shared_ptr<anchor> anchor_;  // outlives the cell in handlers that are still queued
  std::coroutine_handle<> handle_;
  bool parked_ = false;
  bool launched_ = false;
  std::atomic<bool> ended_{false};
};

}  // namespace troupe::runtime
