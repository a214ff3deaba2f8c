#pragma once
#include <cstdint>
#include <string>

#include "src/link/channel.hpp"
#include "src/model/open_model.hpp"

/// Who speaks: the first three messages of a link, for either side. Blocking, bounded by a deadline.
namespace troupe::link {

/// The version of this build, which both ends must share.
std::string program_version();

/// A rank that has proved that it knows the secret. `hello` is owed to it.
struct introduced {
  std::uint32_t rank = any_rank;
  digest proof{};  ///< for the hello: rank 0's
};
/// Rank 0's side. Whoever is of another version or does not know the secret is told so and turned away. Errors:
/// rank_failed.
result<introduced> introduce(channel&, const std::string& secret, time_point deadline);

/// The rank's side: answers the challenge, checks rank 0's proof. Errors: rank_failed, with what rank 0 said if it
/// turned this rank away.
result<hello> greet(channel&, const std::string& secret, std::uint32_t rank, time_point deadline);

/// A rank that cannot be used after all: says why and closes.
void refuse(channel&, const std::string& why);

/// Names a model's contents: its numbers, its tensors' names, types and shapes, and the first bytes of each.
digest model_identity(const model::model&);

/// HOST:PORT of rank `of`'s collective as rank `for_rank` reaches it. `hosts`: where each rank's link comes from, as
/// rank 0 sees it; `rank0`: rank 0's host as `for_rank` sees it; empty for ranks that are children of rank 0.
std::string reachable(std::uint32_t of, std::uint32_t for_rank, const std::vector<std::string>& hosts,
                      const std::string& rank0, std::uint16_t port);

}  // namespace troupe::link
