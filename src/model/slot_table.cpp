#include "src/model/slot_table.hpp"

#include <algorithm>
#include <bit>
#include <string>

namespace troupe::model {
namespace {

/// Of the size of the table for n > 0 pages at most: half of it stays free.
std::uint32_t log2_writers(std::uint32_t n) { return static_cast<std::uint32_t>(std::bit_width(2 * n - 1)); }

failure refuse(const std::string& what) { return {errc::invalid_argument, "step plan refused: " + what}; }

}  // namespace

slot_table::slot_table(const rank_shape& shape, std::uint32_t window, rank_abilities abilities)
    : shape_(shape),
      window_(window),
      abilities_(abilities),
      table_pages_((shape.max_model_len + page_tokens - 1) / page_tokens),
      slots_(shape.max_slots),
      pages_(std::size_t{shape.max_slots} * table_pages_, no_page),
      writers_(std::size_t{1} << log2_writers(shape.max_batched_tokens)) {
  rows_.reserve(shape.max_batched_tokens);
  tokens_.reserve(shape.max_batched_tokens);
  positions_.reserve(shape.max_batched_tokens);
  row_of_.reserve(shape.max_batched_tokens);
  outputs_.reserve(shape.max_batched_tokens);
}

std::uint64_t slot_table::bytes(const rank_shape& shape) {
  const std::uint64_t table = (std::uint64_t{shape.max_model_len} + page_tokens - 1) / page_tokens;
  return shape.max_slots * (table * sizeof(page_id) + sizeof(slot_state)) +
         (std::uint64_t{1} << log2_writers(shape.max_batched_tokens)) * sizeof(writer) +
         std::uint64_t{shape.max_batched_tokens} * (sizeof(step_row) + sizeof(step_output) + 12);
}

result<void> slot_table::apply(const step_plan_view& plan) {
  rows_.clear();
  tokens_.clear();
  positions_.clear();
  row_of_.clear();
  outputs_.clear();
  batch_ = {};
  for (slot_id s : plan.releases()) {
    if (s >= slots_.size() || !slots_[s].bound)
      return refuse("slot " + std::to_string(s) + " is released but not bound");
    slots_[s].bound = false;
  }
  for (const slot_admit& a : plan.admits())
    if (auto ok = admit(plan, a); !ok) return ok;
  for (const page_delta& d : plan.deltas()) {
    if (d.slot >= slots_.size() || !slots_[d.slot].bound)
      return refuse("a page for slot " + std::to_string(d.slot) + ", which is not bound");
    if (d.group != 0) return refuse("KV group " + std::to_string(d.group) + " does not exist");
    if (d.index >= table_pages_ || d.page >= shape_.n_pages[0])
      return refuse("page " + std::to_string(d.page) + " at index " + std::to_string(d.index) + " does not exist");
    pages_[std::size_t{d.slot} * table_pages_ + d.index] = d.page;
    if (d.index == slots_[d.slot].written) slots_[d.slot].written_page = d.page;
  }
  for (const page_fork& f : plan.forks())
    if (f.group != 0 || f.from >= shape_.n_pages[0] || f.to >= shape_.n_pages[0] || f.n_tokens > page_tokens)
      return refuse("a fork of a page that does not exist");
  if (plan.n_tokens() > shape_.max_batched_tokens)
    return refuse(std::to_string(plan.n_tokens()) + " tokens in one step, at most " +
                  std::to_string(shape_.max_batched_tokens) + " are possible");
  const std::span<const plan_row> rows = plan.rows();
  const auto n_rows = static_cast<std::uint32_t>(rows.size());
  if (n_rows == 0) return {};
  if (++step_ == 0) {
    std::fill(writers_.begin(), writers_.end(), writer{});
    step_ = 1;
  }
  // A row of n tokens lies in n pages at most, and in n / page_tokens + 2.
  log2_writers_ = log2_writers(std::min(plan.n_tokens(), plan.n_tokens() / page_tokens + 2 * n_rows));
  for (std::size_t i = 0; i < std::size_t{1} << log2_writers_; i += 64 / sizeof(writer))
    __builtin_prefetch(&writers_[i], 1);
  for (std::uint32_t i = 0; i < n_rows; ++i)
    if (auto ok = add_row(plan, rows[i], i); !ok) return ok;
  batch_ = {rows_, tokens_, positions_, row_of_, outputs_};
  return {};
}

result<void> slot_table::admit(const step_plan_view& plan, const slot_admit& a) {
  if (a.slot >= slots_.size()) return refuse("slot " + std::to_string(a.slot) + " does not exist");
  if (slots_[a.slot].bound) return refuse("slot " + std::to_string(a.slot) + " is admitted while bound");
  if (a.adapter != -1) return refuse("adapters are not supported on this rank");
  slots_[a.slot] = {};
  slots_[a.slot].bound = true;
  const auto table = pages_.begin() + static_cast<std::ptrdiff_t>(std::size_t{a.slot} * table_pages_);
  std::fill(table, table + table_pages_, no_page);
  for (token_id t : plan.tokens().subspan(a.history_offset, a.history_count))
    if (!valid_token(t)) return refuse("token id " + std::to_string(t) + " in a history");
  return {};
}

slot_table::writer& slot_table::writer_of(page_id page) {
  const std::uint32_t mask = (1u << log2_writers_) - 1;
  std::uint32_t i = (page * 0x9e3779b1u) >> (32 - log2_writers_);
  while (writers_[i].step == step_ && writers_[i].page != page) i = (i + 1) & mask;
  return writers_[i];
}

result<void> slot_table::add_row(const step_plan_view& plan, const plan_row& r, std::uint32_t index) {
  if (r.slot >= slots_.size() || !slots_[r.slot].bound)
    return refuse("a row of slot " + std::to_string(r.slot) + ", which is not bound");
  if (r.kind != row_kind::decode && r.kind != row_kind::chunk)
    return refuse("a row of a kind that this rank does not run");
  if (r.gate != row_gate::none) {
    if (!abilities_.gates) return refuse("a gated row, which this rank does not run");
    if (r.gate != row_gate::mask) return refuse("a row with an unknown kind of gate");
    if (r.output != row_output::sample && r.output != row_output::sample_logprobs)
      return refuse("a gate at a row that draws nothing");
  }
  const std::uint64_t end = std::uint64_t{r.position} + r.n_tokens;
  if (end > shape_.max_model_len)
    return refuse("position " + std::to_string(end - 1) + " is beyond the longest sequence of " +
                  std::to_string(shape_.max_model_len));
  const page_id* table = pages_.data() + std::size_t{r.slot} * table_pages_;
  // Pages come and do not go, so without a window those that a row before has seen need no second look.
  const std::uint32_t oldest = window_ && r.position >= window_ ? r.position - window_ + 1 : 0;
  slot_state& slot = slots_[r.slot];
  for (std::uint32_t i = window_ ? oldest / page_tokens : slot.paged; i * page_tokens < end; ++i) {
    if (table[i] == no_page)
      return refuse("slot " + std::to_string(r.slot) + " has no page at index " + std::to_string(i));
    slot.paged = i + 1;
  }
  // Two rows may follow one another within a slot; two slots never write one page in one step.
  for (std::uint32_t i = r.position / page_tokens; i * page_tokens < end; ++i) {
    if (i != slot.written) {
      slot.written = i;
      slot.written_page = table[i];
    }
    writer& w = writer_of(slot.written_page);
    if (w.step == step_ && (w.slot != r.slot || w.end > std::max(r.position, i * page_tokens)))
      return refuse("page " + std::to_string(slot.written_page) + " is written twice");
    w = {step_, slot.written_page, r.slot,
         static_cast<std::uint32_t>(std::min<std::uint64_t>(end, (i + 1) * page_tokens))};
  }

  const auto first = static_cast<std::uint32_t>(tokens_.size());
  switch (r.input) {
    case row_input::literal:
      for (token_id t : plan.tokens_of(r)) {
        if (!valid_token(t)) return refuse("token id " + std::to_string(t) + " is outside the vocabulary");
        tokens_.push_back(t);
      }
      break;
    case row_input::last_token:
      if (slot.sampled == 0 || slot.sampled == plan.seq() || r.n_tokens != 1)
        return refuse("slot " + std::to_string(r.slot) + " has drawn no token to go on from");
      tokens_.push_back(last_token_of(r.slot));
      break;
    default: return refuse("a row with an unknown kind of input");
  }
  const auto row = static_cast<std::uint32_t>(rows_.size());
  rows_.push_back({r.slot, r.position, r.n_tokens, first, table});
  for (std::uint32_t i = 0; i < r.n_tokens; ++i) {
    positions_.push_back(r.position + i);
    row_of_.push_back(row);
  }
  return add_output(plan, r, index, first);
}

result<void> slot_table::add_output(const step_plan_view& plan, const plan_row& r, std::uint32_t index,
                                    std::uint32_t first) {
  switch (r.output) {
    case row_output::none: break;
    case row_output::sample:
    case row_output::sample_logprobs:
      if (slots_[r.slot].sampled == plan.seq()) return refuse("two rows draw for slot " + std::to_string(r.slot));
      slots_[r.slot].sampled = plan.seq();
      outputs_.push_back({first + r.n_tokens - 1, index});
      break;
    case row_output::logits:
      for (std::uint32_t i = 0; i < r.n_tokens; ++i) outputs_.push_back({first + i, index});
      break;
    default: return refuse("a row with an output that this rank does not make");
  }
  return {};
}

}  // namespace troupe::model
