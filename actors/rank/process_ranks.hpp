#pragma once
#include <memory>
#include <vector>

#include "actors/rank/backends.hpp"
#include "actors/rank/rank_host.hpp"

/// An engine's ranks where those but rank 0 are processes.
namespace troupe::rank {

struct process_ranks {
  std::vector<made_backend> ranks;  ///< rank 0's own, then what stands for the others
  std::shared_ptr<group::collective> group;
  std::shared_ptr<rank_host> host;
};

/// Starts the other ranks or waits for them (engine_options::rank_isolation, rendezvous), agrees with them on the cache's
/// size, loads rank 0's part while they load theirs. Errors: as make_backends, and rank_failed with the rank's own words.
result<process_ranks> make_process_ranks(const engine_options&, std::shared_ptr<const model::model>,
                                         std::shared_ptr<model::sink_table> sinks);

}  // namespace troupe::rank
