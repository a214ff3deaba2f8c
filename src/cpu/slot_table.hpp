#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "src/base/result.hpp"
#include "src/model/backend.hpp"
#include "src/model/step_plan.hpp"
#include "src/sample/sampler.hpp"

/// What a rank remembers between steps, and how a plan becomes work: every index in a plan is checked here, so that what
/// runs after trusts its input.
namespace troupe::cpu {

inline constexpr page_id no_page = 0xffffffffu;

struct slot_state {
  bool bound = false;
  bool has_last = false;
  token_id last = 0;
  sample::parameters sampling;
  std::vector<sample::bias> biases;
};

/// A run of consecutive positions of one sequence.
struct step_row {
  slot_id slot;
  std::uint32_t position;
  std::uint32_t n_tokens;
  std::uint32_t first;           ///< its first token in step_batch::tokens
  const page_id* pages;          ///< the slot's page table
};

/// A token whose logits are wanted.
struct step_output {
  std::uint32_t token;           ///< index into step_batch::tokens
  std::uint32_t row;             ///< index into the plan's rows
};

/// The tokens of a step, rows one after the other.
struct step_batch {
  std::span<const step_row> rows;
  std::span<const token_id> tokens;
  std::span<const std::uint32_t> positions;  ///< of each token
  std::span<const std::uint32_t> row_of;     ///< of each token: index into rows
  std::span<const step_output> outputs;      ///< ascending
};

class slot_table {
 public:
  /// One KV group; every vector is sized for the shape now. `window`: keys further back are not looked at, and their
  /// pages need not be in the table; 0: all are.
  slot_table(const model::rank_shape&, std::uint32_t window);

  /// Carries out releases, admits and page deltas, and lays out the rows. A plan that names anything that does not exist
  /// (slot, page, token id, position) or that asks for what this rank cannot do is refused; state is undefined after.
  result<void> apply(const model::step_plan_view&);
  /// The batch of the last plan; valid until the next.
  const step_batch& batch() const { return batch_; }

  slot_state& slot(slot_id s) { return slots_[s]; }
  sample::token_counts& counts(slot_id s) { return counts_[s]; }

  static std::uint64_t bytes(const model::rank_shape&);

 private:
  result<void> admit(const model::step_plan_view&, const model::slot_admit&);
  result<void> add_row(const model::step_plan_view&, std::uint32_t index);
  bool valid_token(token_id t) const { return t >= 0 && static_cast<std::uint32_t>(t) < shape_.vocab; }

  model::rank_shape shape_;
  std::uint32_t window_;
  std::uint32_t table_pages_;                   // entries in a slot's page table
  std::vector<slot_state> slots_;
  std::vector<sample::token_counts> counts_;
  std::vector<page_id> pages_;                  // [slot][table_pages_]
  struct writer {
    step_seq seq = 0;
    slot_id slot = 0;
    std::uint32_t end = 0;                      // position after the last one written
  };
  std::vector<writer> writers_;                 // of each page: who wrote it last
  std::vector<step_seq> samples_;               // of each slot: the last plan that draws for it
  std::vector<step_row> rows_;
  std::vector<token_id> tokens_;
  std::vector<std::uint32_t> positions_, row_of_;
  std::vector<step_output> outputs_;
  step_batch batch_;
};

}  // namespace troupe::cpu
