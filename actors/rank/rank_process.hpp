#pragma once
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "src/base/result.hpp"
#include "src/link/messages.hpp"

/// A rank in a process of its own: what `troupe rank` does.
namespace troupe::rank {

struct rank_process_options {
  std::optional<link::address> join;  ///< where rank 0 listens; none: a child of rank 0, which gave it descriptors
  std::uint32_t rank = link::any_rank;
  std::string secret;                     ///< with `join`
  std::string model;                      ///< where it lies on this host; empty: where it does on rank 0's
  std::string device;                     ///< empty: as rank 0 says
  std::uint32_t threads = 0;              ///< 0: as rank 0 says
  std::chrono::seconds start_limit{300};  ///< for each stage of the start
  /// The connection to rank 0 is lost, or rank 0 has given this rank up: called on a thread of its own while the rank
  /// may be in the middle of a step. Must end the process.
  std::function<void(const std::string& why)> on_lost;
};

/// Joins rank 0, loads its part of the model, executes plans. Returns when it is told to stop. Errors: rank_failed, and
/// those of opening the model and making the backend; rank 0 is told.
result<void> run_rank(const rank_process_options&);

}  // namespace troupe::rank
