#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "actors/runtime/fault.hpp"

namespace asio {
class io_context;
}

namespace troupe::runtime {

class cell_base;

struct loop_options {
  std::string name;        ///< of the thread, as debuggers and `top` show it (15 characters there)
  fault_handler on_fault;  ///< for exceptions out of handlers that belong to no actor
};

/// Owns: one io_context and the one thread that runs it, hence everything on it is serial without a lock.
/// Thread: `context`, `post`, `close`, `stop`, `halt` from any; the rest from the owner.
/// Invariants: one thread per io_context, for life; the loop outlives the actor cells on it.
///
/// Several actors may be folded onto one loop; a message between them is then a post without a wake.
class loop {
 public:
  /// A loop with a thread of its own, which runs from `start` on.
  explicit loop(loop_options options);
  /// A guest on an io_context that somebody else runs with a single thread: `start` and `join` do nothing.
  loop(loop_options options, asio::io_context& host);
  /// Closes the cells that are left, waits for them, joins.
  ~loop();
  loop(const loop&) = delete;
  loop& operator=(const loop&) = delete;

  asio::io_context& context() noexcept;
  const std::string& name() const noexcept;
  /// True on the thread that runs the loop.
  bool on_thread() const noexcept;
  void post(std::function<void()> work);

  /// While `busy` returns true the thread polls instead of sleeping: it calls `busy` and `poll_one` in turn. For a rank
  /// that watches a device; `busy` decides how to wait. Before `start`.
  void poll_while(std::function<bool()> busy);

  void start();
  /// Closes the mailboxes of all actors on the loop, which end once they are drained.
  void close() noexcept;
  /// `close`, and the thread leaves once the last actor has ended.
  void stop() noexcept;
  /// The thread leaves after the handler it is in, whatever is pending.
  void halt() noexcept;
  /// Waits for the thread to leave. False: it has not within `limit` (a handler hangs); ask again or `halt`.
  bool join_for(std::chrono::nanoseconds limit);
  void join();
  /// Gives up a loop whose thread hangs in a handler. The thread keeps the loop and `cells`, the actors on it and what
  /// they use, and frees them should it ever come back. Does not block.
  static void abandon(std::unique_ptr<loop>, std::shared_ptr<void> cells);

 private:
  friend class cell_base;
  void add(cell_base&);
  void remove(cell_base&) noexcept;
  void ended(cell_base&) noexcept;
  void abandoned() noexcept;
  void wait_for(const cell_base&);  ///< until the cell has ended or the loop's thread has left
  bool elsewhere() const noexcept;  ///< the loop's own thread has not been joined, and this is not it

  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::runtime
