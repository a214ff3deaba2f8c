#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "src/base/result.hpp"
#include "src/model/backend.hpp"
#include "src/model/step_plan.hpp"

/// What every rank remembers of its slots between steps, and how a plan becomes work: every index in a plan is checked
/// here, so that what runs after trusts its input. What a slot draws with (sampling parameters, counts, the last token)
/// belongs to the backend, which looks at the plan's admits after `apply`.
namespace troupe::model {

inline constexpr page_id no_page = 0xffffffffu;

/// Stands among a batch's tokens for what the slot drew last, which on a device only the device knows.
constexpr token_id last_token_of(slot_id slot) { return -1 - static_cast<token_id>(slot); }
constexpr bool is_last_token(token_id t) { return t < 0; }
constexpr slot_id slot_of_last_token(token_id t) { return static_cast<slot_id>(-1 - t); }

/// A run of consecutive positions of one sequence.
struct step_row {
  slot_id slot;
  std::uint32_t position;
  std::uint32_t n_tokens;
  std::uint32_t first;   ///< its first token in step_batch::tokens
  const page_id* pages;  ///< the slot's page table
};

/// A token whose logits are wanted.
struct step_output {
  std::uint32_t token;  ///< index into step_batch::tokens
  std::uint32_t row;    ///< index into the plan's rows
};

/// The tokens of a step, rows one after the other.
struct step_batch {
  std::span<const step_row> rows;
  std::span<const token_id> tokens;          ///< ids, or last_token_of(slot)
  std::span<const std::uint32_t> positions;  ///< of each token
  std::span<const std::uint32_t> row_of;     ///< of each token: index into rows
  std::span<const step_output> outputs;      ///< ascending
};

/// What a rank can do beyond the least.
struct rank_abilities {
  bool gates = false;  ///< rows whose sampling waits for a mask
};

class slot_table {
 public:
  /// One KV group; every vector is sized for the shape now. `window`: keys further back are not looked at, and their
  /// pages need not be in the table; 0: all are.
  slot_table(const rank_shape&, std::uint32_t window, rank_abilities = {});

  /// Carries out releases, admits and page deltas, and lays out the rows. A plan that names anything that does not
  /// exist (slot, page, token id, position) or that asks for what this rank cannot do is refused; state is undefined
  /// after.
  result<void> apply(const step_plan_view&);
  /// The batch of the last plan; valid until the next.
  const step_batch& batch() const { return batch_; }
  std::uint32_t table_pages() const { return table_pages_; }  ///< entries in a slot's page table

  static std::uint64_t bytes(const rank_shape&);

 private:
  result<void> admit(const step_plan_view&, const slot_admit&);
  result<void> add_row(const step_plan_view&, const plan_row&, std::uint32_t index);
  result<void> add_output(const step_plan_view&, const plan_row&, std::uint32_t index, std::uint32_t first);
  bool valid_token(token_id t) const { return t >= 0 && static_cast<std::uint32_t>(t) < shape_.vocab; }

  /// What a row of a decode step needs to know of its slot, side by side: page table and pool are large, and whatever
  /// a row looks up there has left the caches since the step before.
  struct slot_state {
    step_seq sampled = 0;            // the last plan that draws for it, 0: none since it was admitted
    std::uint32_t paged = 0;         // its first pages that a row has found to be there
    std::uint32_t written = ~0u;     // index of the page that it wrote last, ~0: none since it was admitted
    page_id written_page = no_page;  // what the page table says there
    bool bound = false;
  };
  struct writer {
    std::uint32_t step = 0;  // of another step: free
    page_id page = 0;
    slot_id slot = 0;
    std::uint32_t end = 0;  // position after the last one written
  };
  /// The page's, or a free one.
  writer& writer_of(page_id);

  rank_shape shape_;
  std::uint32_t window_;
  rank_abilities abilities_;
  std::uint32_t table_pages_;
  std::vector<slot_state> slots_;
  std::vector<page_id> pages_;   // [slot][table_pages_]
  std::vector<writer> writers_;  // of the pages that a step writes: a hash table of as many as the step may need
  std::uint32_t log2_writers_ = 1;
  std::uint32_t step_ = 0;  // plans with rows
  std::vector<step_row> rows_;
  std::vector<token_id> tokens_;
  std::vector<std::uint32_t> positions_, row_of_;
  std::vector<step_output> outputs_;
  step_batch batch_;
};

}  // namespace troupe::model
