#include "src/gpu/step_writer.hpp"

#include <algorithm>

namespace troupe::gpu {

namespace g = kernels::gpu;

step_writer::step_writer(const model::rank_shape& s) {
  order_.reserve(s.max_batched_tokens);
  drawn_.reserve(s.max_slots);
  rows_.reserve(s.max_batched_tokens);
}

void step_writer::order(const model::step_plan_view& plan, const model::step_batch& batch) {
  order_.clear();
  drawn_.clear();
  const std::span<const model::plan_row> rows = plan.rows();
  for (std::uint32_t i = 0; i < batch.outputs.size(); ++i) {
    const model::plan_row& row = rows[batch.outputs[i].row];
    if (row.output == model::row_output::logits) continue;
    order_.push_back(i);
    drawn_.push_back(row.slot);
  }
  if (order_.size() == batch.outputs.size()) return;
  for (std::uint32_t i = 0; i < batch.outputs.size(); ++i)
    if (rows[batch.outputs[i].row].output == model::row_output::logits) order_.push_back(i);
}

void step_writer::divide(const g::attention_shape& shape, const model::step_batch& batch) {
  rows_.clear();
  for (const model::step_row& r : batch.rows) rows_.push_back({r.slot, r.position, r.n_tokens, r.first});
  items_.clear();
  g::plan_attention(shape, rows_, items_);
}

void step_writer::write(const model::step_plan_view& plan, const model::step_batch& batch,
                        std::span<const g::page_entry> entries, const step_layout& l, std::byte* to) {
  const std::span<const model::plan_row> rows = plan.rows();
  auto* const slots = step_layout::at<std::uint32_t>(to, l.slots);
  for (const model::step_row& r : batch.rows) std::fill_n(slots + r.first, r.n_tokens, r.slot);
  // A token of the batch is an id or says whose last token it is; the kernels know the same two forms.
  static_assert(model::last_token_of(5) == g::last_token_of(5));
  std::copy(batch.tokens.begin(), batch.tokens.end(), step_layout::at<g::input_token>(to, l.tokens));
  std::copy(batch.positions.begin(), batch.positions.end(), step_layout::at<std::uint32_t>(to, l.positions));
  auto* const gather = step_layout::at<std::uint32_t>(to, l.gather);
  auto* const draws = step_layout::at<g::sample_row>(to, l.sample_rows);
  for (std::uint32_t i = 0; i < order_.size(); ++i) {
    const model::step_output& o = batch.outputs[order_[i]];
    gather[i] = o.token;
    if (i >= drawn_.size()) continue;
    const model::plan_row& row = rows[o.row];
    const std::uint32_t flags = (row.output == model::row_output::sample_logprobs ? g::sample_logprob : 0u) |
                                (row.gate == model::row_gate::mask ? g::sample_masked : 0u);
    draws[i] = {drawn_[i], batch.positions[o.token] + 1, i, flags, i, i};
  }
  std::copy(entries.begin(), entries.end(), step_layout::at<g::page_entry>(to, l.page_entries));
  std::copy(items_.begin(), items_.end(), step_layout::at<g::attention_item>(to, l.items));
  *step_layout::header(to) = {plan.seq(),
                              ++runs_,
                              static_cast<std::uint32_t>(batch.tokens.size()),
                              static_cast<std::uint32_t>(batch.rows.size()),
                              static_cast<std::uint32_t>(order_.size()),
                              static_cast<std::uint32_t>(drawn_.size()),
                              static_cast<std::uint32_t>(entries.size()),
                              static_cast<std::uint32_t>(items_.size())};
}

}  // namespace troupe::gpu
