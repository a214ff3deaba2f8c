#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "src/gpu/device.hpp"
#include "src/model/backend.hpp"
#include "src/model/token_mask.hpp"

namespace troupe::gpu {

/// Masks on their way to the sampler of a step that already runs: pinned memory with a mask and a gate word for each
/// row that can draw. The sampler waits until the row's word holds the step's number. One thread.
class row_gates {
 public:
  static result<row_gates> make(const model::rank_shape&, std::shared_ptr<model::mask_table>);

  /// What the sampler of the plans with this turn reads: [max_slots] gate words, [max_slots][words of a mask].
  const volatile std::uint64_t* words(std::uint32_t turn) const { return word(turn, 0); }
  const std::uint32_t* masks(std::uint32_t turn) const { return mask(turn, 0); }

  /// Row `row` of the draws of plan `seq` waits for a mask. The plan before that used this turn's memory must be done.
  void await(step_seq seq, std::uint32_t turn, std::uint32_t row, std::uint32_t gate_id);
  /// Hands over the masks that have become ready. True: there are others.
  bool advance();
  /// Lets all rows go without a mask: they draw nothing.
  void give_up();
  /// The plan is done. `missing(row)` of it can be asked until the next await.
  void done(step_seq seq);
  /// The row went without a mask.
  bool missing(std::uint32_t turn, std::uint32_t row) const { return missing_[set_of(turn) * max_slots_ + row]; }

 private:
  struct awaited {
    step_seq seq;
    std::uint32_t turn, row;
    std::shared_ptr<const model::token_mask> mask;
  };
  std::uint32_t set_of(std::uint32_t turn) const { return turn % n_sets_; }
  std::uint64_t* word(std::uint32_t turn, std::uint32_t row) const;
  std::uint32_t* mask(std::uint32_t turn, std::uint32_t row) const;
  bool let_go(const awaited&, model::mask_state);

  std::shared_ptr<model::mask_table> table_;
  memory pinned_;  // [n_sets_] of gate words [max_slots_], masks [max_slots_][mask_words_]
  std::uint64_t set_bytes_ = 0, masks_at_ = 0;
  std::uint32_t n_sets_ = 1, max_slots_ = 0, mask_words_ = 0;
  std::vector<awaited> awaited_;
  std::vector<bool> missing_;  // [n_sets_][max_slots_]
};

}  // namespace troupe::gpu
