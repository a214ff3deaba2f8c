#pragma once
#include <cstdint>
#include <vector>

#include "src/model/backend.hpp"
#include "src/model/slot_table.hpp"
#include "src/sample/sampler.hpp"

namespace troupe::cpu {

/// What each slot draws with, and what it drew last.
class slot_draws {
 public:
  explicit slot_draws(const model::rank_shape&);

  /// Takes over the admits of a plan that model::slot_table has accepted.
  void admit(const model::step_plan_view&);
  /// The batch with the tokens that the slots drew last in their places; valid until the next call.
  model::step_batch resolve(const model::step_batch&);
  void drew(slot_id, token_id);

  const sample::parameters& sampling(slot_id s) const { return slots_[s].sampling; }
  const std::vector<sample::bias>& biases(slot_id s) const { return slots_[s].biases; }
  const sample::token_counts& counts(slot_id s) const { return counts_[s]; }

  static std::uint64_t bytes(const model::rank_shape&);

 private:
  struct state {
    token_id last = 0;
    sample::parameters sampling;
    std::vector<sample::bias> biases;
  };
  std::vector<state> slots_;
  std::vector<sample::token_counts> counts_;
  std::vector<token_id> tokens_;
};

}  // namespace troupe::cpu
