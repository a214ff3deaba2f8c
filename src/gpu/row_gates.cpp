#include "src/gpu/row_gates.hpp"

#include <algorithm>
#include <atomic>

namespace troupe::gpu {

using model::mask_state;

result<row_gates> row_gates::make(const model::rank_shape& s, std::shared_ptr<model::mask_table> table) {
  row_gates g;
  g.table_ = std::move(table);
  g.n_sets_ = s.depth;
  g.max_slots_ = s.max_slots;
  g.mask_words_ = static_cast<std::uint32_t>(model::token_mask::words_of(s.vocab));
  layout l;
  l.add<std::uint64_t>(s.max_slots);
  g.masks_at_ = l.add<std::uint32_t>(std::uint64_t{s.max_slots} * g.mask_words_);
  g.set_bytes_ = l.bytes();
  auto m = memory::pinned(g.set_bytes_ * g.n_sets_, "token masks");
  if (!m) return m.take_error();
  g.pinned_ = std::move(*m);
  g.awaited_.reserve(std::size_t{s.max_slots} * s.depth);
  g.missing_.resize(std::size_t{s.max_slots} * s.depth);
  return g;
}

std::uint64_t* row_gates::word(std::uint32_t turn, std::uint32_t row) const {
  return pinned_.at<std::uint64_t>(set_of(turn) * set_bytes_) + row;
}
std::uint32_t* row_gates::mask(std::uint32_t turn, std::uint32_t row) const {
  return pinned_.at<std::uint32_t>(set_of(turn) * set_bytes_ + masks_at_) + std::size_t{row} * mask_words_;
}

void row_gates::await(step_seq seq, std::uint32_t turn, std::uint32_t row, std::uint32_t gate_id) {
  awaited a{seq, turn, row, table_->find(gate_id)};
  missing_[set_of(turn) * max_slots_ + row] = false;
  if (!let_go(a, a.mask ? a.mask->state() : mask_state::given_up)) awaited_.push_back(std::move(a));
}

bool row_gates::advance() {
  std::erase_if(awaited_, [this](const awaited& a) { return let_go(a, a.mask->state()); });
  return !awaited_.empty();
}

void row_gates::give_up() {
  for (const awaited& a : awaited_) let_go(a, mask_state::given_up);
  awaited_.clear();
}

void row_gates::done(step_seq seq) {
  std::erase_if(awaited_, [seq](const awaited& a) { return a.seq == seq; });
}

/// Opens the row's gate unless its mask is still to come.
bool row_gates::let_go(const awaited& a, mask_state state) {
  if (state == mask_state::pending) return false;
  std::uint32_t* const to = mask(a.turn, a.row);
  if (state == mask_state::ready) {
    std::copy_n(a.mask->words().begin(), mask_words_, to);
  } else {
    std::fill_n(to, mask_words_, 0u);  // "nothing allowed" ends the row at once; `missing` tells the true reason
    missing_[set_of(a.turn) * max_slots_ + a.row] = true;
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);  // the mask before its word, for the card too
  std::atomic_ref<std::uint64_t>(*word(a.turn, a.row)).store(a.seq, std::memory_order_release);
  return true;
}

}  // namespace troupe::gpu
