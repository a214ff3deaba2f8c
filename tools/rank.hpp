#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include <troupe/options.hpp>

namespace troupe::cli {

/// What TROUPE_RENDEZVOUS_SECRET says or the file that it names holds. Throws troupe::error.
std::string rendezvous_secret();

/// This process as one of several that mpirun, srun or another launcher started.
struct launched_process {
  std::uint32_t rank, size, local_size, local_rank;  ///< local: among those on this host
};
std::optional<launched_process> launched();

/// Completes the options of ranks as processes. Where the launcher says that this process is not rank 0, it is a rank
/// until the job ends; its exit code then.
std::optional<int> act_as_rank(engine_options&);

}  // namespace troupe::cli
