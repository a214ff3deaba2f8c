#pragma once
#include <chrono>
#include <memory>
#include <string_view>

#include "src/model/backend.hpp"

/// Faults on purpose, so that a deployment can be watched while it meets one.
namespace troupe::model {

enum class fault_kind {
  fail,       ///< the step ends with a failure, as after an error of the device
  no_memory,  ///< an allocation throws while the step is launched
  slow,       ///< the step takes `delay` longer
  hang,       ///< the device never answers: poll says "not yet" for ever
  freeze,     ///< the rank's thread itself never comes back from poll
};

struct fault {
  std::uint32_t rank = 0;              ///< to whom it happens
  fault_kind what = fault_kind::fail;
  step_seq step = 1;                   ///< where it happens
  bool lasting = false;                ///< slow: from `step` on instead of once
  std::chrono::milliseconds delay{0};  ///< slow
};

/// `step=20:fail`, `step=1:no-memory`, `step=20:slow=500ms`, `step=20+:slow=2s`, `step=20:hang`, `step=20:freeze`;
/// of another rank than the first: `rank=1:step=20:fail`.
result<fault> parse_fault(std::string_view);

/// A backend that does what `inner` does until its step comes. Keeps to the contract of launch and poll at any depth:
/// the fault happens to the step of that number, when it is the oldest in flight.
std::unique_ptr<backend> with_fault(std::unique_ptr<backend> inner, const fault&);

}  // namespace troupe::model
