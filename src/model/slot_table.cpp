#include "src/model/slot_table.hpp"

#include <algorithm>
#include <string>

namespace troupe::model {
namespace {

failure refuse(const std::string& what) { return {errc::invalid_argument, "step plan refused: " + what}; }

}  // namespace

slot_table::slot_table(const rank_shape& shape, std::uint32_t window, rank_abilities abilities)
    : shape_(shape),
      window_(window),
      abilities_(abilities),
      table_pages_((shape.max_model_len + page_tokens - 1) / page_tokens),
      bound_(shape.max_slots),
      pages_(std::size_t{shape.max_slots} * table_pages_, no_page),
      writers_(shape.n_pages[0]),
      samples_(shape.max_slots),
      paged_(shape.max_slots) {
  rows_.reserve(shape.max_batched_tokens);
  tokens_.reserve(shape.max_batched_tokens);
  positions_.reserve(shape.max_batched_tokens);
  row_of_.reserve(shape.max_batched_tokens);
  outputs_.reserve(shape.max_batched_tokens);
}

std::uint64_t slot_table::bytes(const rank_shape& shape) {
  const std::uint64_t table = (std::uint64_t{shape.max_model_len} + page_tokens - 1) / page_tokens;
  return shape.max_slots * (table * sizeof(page_id) + sizeof(step_seq) + sizeof(std::uint32_t)) +
         std::uint64_t{shape.n_pages[0]} * sizeof(writer) +
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
    if (s >= bound_.size() || !bound_[s]) return refuse("slot " + std::to_string(s) + " is released but not bound");
    bound_[s] = false;
  }
  for (const slot_admit& a : plan.admits())
    if (auto ok = admit(plan, a); !ok) return ok;
  for (const page_delta& d : plan.deltas()) {
    if (d.slot >= bound_.size() || !bound_[d.slot])
      return refuse("a page for slot " + std::to_string(d.slot) + ", which is not bound");
    if (d.group != 0) return refuse("KV group " + std::to_string(d.group) + " does not exist");
    if (d.index >= table_pages_ || d.page >= shape_.n_pages[0])
      return refuse("page " + std::to_string(d.page) + " at index " + std::to_string(d.index) + " does not exist");
    pages_[std::size_t{d.slot} * table_pages_ + d.index] = d.page;
  }
  for (const page_fork& f : plan.forks())
    if (f.group != 0 || f.from >= shape_.n_pages[0] || f.to >= shape_.n_pages[0] || f.n_tokens > page_tokens)
      return refuse("a fork of a page that does not exist");
  if (plan.n_tokens() > shape_.max_batched_tokens)
    return refuse(std::to_string(plan.n_tokens()) + " tokens in one step, at most " +
                  std::to_string(shape_.max_batched_tokens) + " are possible");
  for (std::uint32_t i = 0; i < plan.rows().size(); ++i)
    if (auto ok = add_row(plan, i); !ok) return ok;
  batch_ = {rows_, tokens_, positions_, row_of_, outputs_};
  return {};
}

result<void> slot_table::admit(const step_plan_view& plan, const slot_admit& a) {
  if (a.slot >= bound_.size()) return refuse("slot " + std::to_string(a.slot) + " does not exist");
  if (bound_[a.slot]) return refuse("slot " + std::to_string(a.slot) + " is admitted while bound");
  if (a.adapter != -1) return refuse("adapters are not supported on this rank");
  bound_[a.slot] = true;
  samples_[a.slot] = 0;
  paged_[a.slot] = 0;
  const auto table = pages_.begin() + static_cast<std::ptrdiff_t>(std::size_t{a.slot} * table_pages_);
  std::fill(table, table + table_pages_, no_page);
  for (token_id t : plan.tokens().subspan(a.history_offset, a.history_count))
    if (!valid_token(t)) return refuse("token id " + std::to_string(t) + " in a history");
  return {};
}

result<void> slot_table::add_row(const step_plan_view& plan, std::uint32_t index) {
  const plan_row& r = plan.rows()[index];
  if (r.slot >= bound_.size() || !bound_[r.slot])
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
  std::uint32_t& paged = paged_[r.slot];
  for (std::uint32_t i = window_ ? oldest / page_tokens : paged; i * page_tokens < end; ++i) {
    if (table[i] == no_page)
      return refuse("slot " + std::to_string(r.slot) + " has no page at index " + std::to_string(i));
    paged = i + 1;
  }
  // Two rows may follow one another within a slot; two slots never write one page in one step.
  for (std::uint32_t i = r.position / page_tokens; i * page_tokens < end; ++i) {
    writer& w = writers_[table[i]];
    if (w.seq == plan.seq() && (w.slot != r.slot || w.end > std::max(r.position, i * page_tokens)))
      return refuse("page " + std::to_string(table[i]) + " is written twice");
    w = {plan.seq(), r.slot, static_cast<std::uint32_t>(std::min<std::uint64_t>(end, (i + 1) * page_tokens))};
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
      if (samples_[r.slot] == 0 || samples_[r.slot] == plan.seq() || r.n_tokens != 1)
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
  return add_output(plan, index, first);
}

result<void> slot_table::add_output(const step_plan_view& plan, std::uint32_t index, std::uint32_t first) {
  const plan_row& r = plan.rows()[index];
  switch (r.output) {
    case row_output::none: break;
    case row_output::sample:
    case row_output::sample_logprobs:
      if (samples_[r.slot] == plan.seq()) return refuse("two rows draw for slot " + std::to_string(r.slot));
      samples_[r.slot] = plan.seq();
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
