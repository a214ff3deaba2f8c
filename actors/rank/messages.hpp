#pragma once
#include <memory>
#include <utility>
#include <variant>

#include "src/model/step_plan.hpp"

/// The protocol of a rank.
namespace troupe::rank {

/// The next plan; every rank of a group gets the same bytes.
struct step_plan {
  std::shared_ptr<const model::step_plan> plan;
  step_plan() = default;
  explicit step_plan(std::shared_ptr<const model::step_plan> p) : plan(std::move(p)) {}
};

using message = std::variant<step_plan>;

}  // namespace troupe::rank
