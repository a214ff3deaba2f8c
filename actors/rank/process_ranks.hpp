#pragma once
#include <memory>

#include "actors/rank/backends.hpp"

/// An engine's ranks where those but rank 0 are processes.
namespace troupe::rank {

/// Starts the other ranks or waits for them (engine_options::rank_isolation, rendezvous), agrees with them on the
/// cache's size, loads rank 0's part while they load theirs. Errors: as make_ranks, and rank_failed with the rank's own
/// words.
result<made_ranks> make_process_ranks(const engine_options&, std::shared_ptr<const model::model>,
                                      std::shared_ptr<model::sink_table> sinks);

}  // namespace troupe::rank
