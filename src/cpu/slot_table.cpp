#include "src/cpu/slot_table.hpp"

#include <algorithm>
#include <string>

namespace troupe::cpu {
namespace {

failure refuse(const std::string& what) { return {errc::invalid_argument, "step plan refused: " + what}; }

}  // namespace

slot_table::slot_table(const model::rank_shape& shape, std::uint32_t window)
    : shape_(shape),
      window_(window),
      table_pages_((shape.max_model_len + page_tokens - 1) / page_tokens),
      slots_(shape.max_slots),
      pages_(std::size_t{shape.max_slots} * table_pages_, no_page),
      writers_(shape.n_pages[0]),
      samples_(shape.max_slots) {
  const std::uint32_t different = std::min(shape.vocab, shape.max_model_len);
  counts_.reserve(shape.max_slots);
  for (std::uint32_t i = 0; i < shape.max_slots; ++i) counts_.emplace_back(different);
  rows_.reserve(shape.max_batched_tokens);
  tokens_.reserve(shape.max_batched_tokens);
  positions_.reserve(shape.max_batched_tokens);
  row_of_.reserve(shape.max_batched_tokens);
  outputs_.reserve(shape.max_batched_tokens);
}

std::uint64_t slot_table::bytes(const model::rank_shape& shape) {
  const std::uint64_t table = (std::uint64_t{shape.max_model_len} + page_tokens - 1) / page_tokens;
  return shape.max_slots * (table * sizeof(page_id) + sizeof(slot_state) + sizeof(step_seq) +
                            sample::token_counts::bytes(std::min(shape.vocab, shape.max_model_len))) +
         std::uint64_t{shape.n_pages[0]} * sizeof(writer) +
         std::uint64_t{shape.max_batched_tokens} * (sizeof(step_row) + sizeof(step_output) + 12);
}

result<void> slot_table::apply(const model::step_plan_view& plan) {
  rows_.clear();
  tokens_.clear();
  positions_.clear();
  row_of_.clear();
  outputs_.clear();
  batch_ = {};
  for (slot_id s : plan.releases()) {
    if (s >= slots_.size() || !slots_[s].bound) return refuse("slot " + std::to_string(s) + " is released but not bound");
    slots_[s].bound = false;
  }
  for (const model::slot_admit& a : plan.admits())
    if (auto ok = admit(plan, a); !ok) return ok;
  for (const model::page_delta& d : plan.deltas()) {
    if (d.slot >= slots_.size() || !slots_[d.slot].bound)
      return refuse("a page for slot " + std::to_string(d.slot) + ", which is not bound");
    if (d.group != 0) return refuse("KV group " + std::to_string(d.group) + " does not exist");
    if (d.index >= table_pages_ || d.page >= shape_.n_pages[0])
      return refuse("page " + std::to_string(d.page) + " at index " + std::to_string(d.index) + " does not exist");
    pages_[std::size_t{d.slot} * table_pages_ + d.index] = d.page;
  }
  for (const model::page_fork& f : plan.forks())
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

result<void> slot_table::admit(const model::step_plan_view& plan, const model::slot_admit& a) {
  if (a.slot >= slots_.size()) return refuse("slot " + std::to_string(a.slot) + " does not exist");
  slot_state& s = slots_[a.slot];
  if (s.bound) return refuse("slot " + std::to_string(a.slot) + " is admitted while bound");
  if (a.adapter != -1) return refuse("adapters are not supported on this rank");
  s.bound = true;
  s.has_last = false;
  s.sampling = {a.temperature,       a.top_k,            a.top_p, a.min_p, a.repetition_penalty, a.frequency_penalty,
                a.presence_penalty, a.seed,             a.choice};
  s.biases.clear();
  for (const auto& b : plan.biases().subspan(a.bias_offset, a.bias_count)) s.biases.push_back({b.token, b.addend});
  const auto table = pages_.begin() + static_cast<std::ptrdiff_t>(std::size_t{a.slot} * table_pages_);
  std::fill(table, table + table_pages_, no_page);
  sample::token_counts& counts = counts_[a.slot];
  counts.clear();
  const auto history = plan.tokens().subspan(a.history_offset, a.history_count);
  for (std::size_t i = 0; i < history.size(); ++i) {
    if (!valid_token(history[i])) return refuse("token id " + std::to_string(history[i]) + " in a history");
    if (i < a.prompt_length)
      counts.add_prompt(history[i]);
    else
      counts.add_output(history[i]);
  }
  return {};
}

result<void> slot_table::add_row(const model::step_plan_view& plan, std::uint32_t index) {
  const model::plan_row& r = plan.rows()[index];
  if (r.slot >= slots_.size() || !slots_[r.slot].bound)
    return refuse("a row of slot " + std::to_string(r.slot) + ", which is not bound");
  if (r.kind != model::row_kind::decode && r.kind != model::row_kind::chunk)
    return refuse("a row of a kind that this rank does not run");
  if (r.gate != model::row_gate::none) return refuse("a gated row, which this rank does not run");
  const std::uint64_t end = std::uint64_t{r.position} + r.n_tokens;
  if (end > shape_.max_model_len)
    return refuse("position " + std::to_string(end - 1) + " is beyond the longest sequence of " +
                  std::to_string(shape_.max_model_len));
  const page_id* table = pages_.data() + std::size_t{r.slot} * table_pages_;
  const std::uint32_t oldest = window_ && r.position >= window_ ? r.position - window_ + 1 : 0;
  for (std::uint32_t i = oldest / page_tokens; i * page_tokens < end; ++i)
    if (table[i] == no_page)
      return refuse("slot " + std::to_string(r.slot) + " has no page at index " + std::to_string(i));
  // Two rows may follow one another within a slot; two slots never write one page in one step.
  for (std::uint32_t i = r.position / page_tokens; i * page_tokens < end; ++i) {
    writer& w = writers_[table[i]];
    if (w.seq == plan.seq() && (w.slot != r.slot || w.end > std::max(r.position, i * page_tokens)))
      return refuse("page " + std::to_string(table[i]) + " is written twice");
    w = {plan.seq(), r.slot, static_cast<std::uint32_t>(std::min<std::uint64_t>(end, (i + 1) * page_tokens))};
  }

  const auto first = static_cast<std::uint32_t>(tokens_.size());
  switch (r.input) {
    case model::row_input::literal:
      for (token_id t : plan.tokens_of(r)) {
        if (!valid_token(t)) return refuse("token id " + std::to_string(t) + " is outside the vocabulary");
        tokens_.push_back(t);
      }
      break;
    case model::row_input::last_token:
      if (!slots_[r.slot].has_last || r.n_tokens != 1)
        return refuse("slot " + std::to_string(r.slot) + " has drawn no token to go on from");
      tokens_.push_back(slots_[r.slot].last);
      break;
    default: return refuse("a row with an unknown kind of input");
  }
  const auto row = static_cast<std::uint32_t>(rows_.size());
  rows_.push_back({r.slot, r.position, r.n_tokens, first, table});
  for (std::uint32_t i = 0; i < r.n_tokens; ++i) {
    positions_.push_back(r.position + i);
    row_of_.push_back(row);
  }
  switch (r.output) {
    case model::row_output::none: break;
    case model::row_output::sample:
    case model::row_output::sample_logprobs:
      if (samples_[r.slot] == plan.seq()) return refuse("two rows draw for slot " + std::to_string(r.slot));
      samples_[r.slot] = plan.seq();
      outputs_.push_back({first + r.n_tokens - 1, index});
      break;
    case model::row_output::logits:
      for (std::uint32_t i = 0; i < r.n_tokens; ++i) outputs_.push_back({first + i, index});
      break;
    default: return refuse("a row with an output that this rank does not make");
  }
  return {};
}

}  // namespace troupe::cpu
