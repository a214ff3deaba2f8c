#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "src/base/result.hpp"
#include "src/group/collective.hpp"
#include "src/model/shard.hpp"

namespace troupe::cpu {

/// The columns of an activation and which rank computes which.
struct shared_columns {
  std::uint32_t width = 0;
  std::vector<model::slice> of;  ///< [rank]
  model::slice own;
};

/// What a rank of a tensor-parallel group computes of each activation (model::sharing::activations: every sum is one
/// rank's, in the order that it has on one rank), and how it comes by the rest. A rank alone has all columns and no
/// group.
struct rank_part {
  std::shared_ptr<group::collective> group;   ///< null: alone
  std::shared_ptr<const model::model> model;  ///< the rank's part of the weights
  shared_columns attended, hidden, ffn, vocab;
};

/// The parts of all n_ranks ranks, without a group. Errors: unsupported, with the number that does not divide.
result<std::vector<rank_part>> divide(std::shared_ptr<const model::model>, std::uint32_t n_ranks);

}  // namespace troupe::cpu
