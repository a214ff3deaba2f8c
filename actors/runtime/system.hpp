#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "actors/runtime/loop.hpp"

namespace troupe::runtime {

struct system_options {
  bool fold = false;                 ///< every `add` gives the first loop: few cores, or a test
  asio::io_context* host = nullptr;  ///< run on the caller's io_context instead of own threads; implies `fold`
  fault_handler on_fault;            ///< of the loops
};

/// Owns: the loops of one engine. Thread: the owner's, except `halt` (any). Invariants: loops start in the order they
/// were added and stop in reverse; the actor cells on them are destroyed before the system is.
class system {
 public:
  explicit system(system_options options = {});
  ~system();  ///< `stop` without a limit
  system(const system&) = delete;
  system& operator=(const system&) = delete;

  loop& add(std::string name);
  void start();

  /// From the last loop to the first: closes its actors' mailboxes, lets them drain, joins its thread. `limit` is for
  /// each loop. False: a loop has not left in time; it is halted, and the loops before it go on running, because the
  /// hanging one may still use their mailboxes. Call again to go on.
  bool stop(std::chrono::nanoseconds limit);
  /// Every thread leaves after the handler it is in.
  void halt() noexcept;

  const std::vector<std::unique_ptr<loop>>& loops() const noexcept { return loops_; }

 private:
  system_options options_;
  std::vector<std::unique_ptr<loop>> loops_;
};

}  // namespace troupe::runtime
