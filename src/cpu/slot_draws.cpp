#include "src/cpu/slot_draws.hpp"

#include <algorithm>

namespace troupe::cpu {
namespace {

/// A sequence cannot hold more different tokens.
std::uint32_t different_tokens(const model::rank_shape& s) { return std::min(s.vocab, s.max_model_len); }

}  // namespace

slot_draws::slot_draws(const model::rank_shape& shape) : slots_(shape.max_slots) {
  counts_.reserve(shape.max_slots);
  for (std::uint32_t i = 0; i < shape.max_slots; ++i) counts_.emplace_back(different_tokens(shape));
  tokens_.reserve(shape.max_batched_tokens);
}

std::uint64_t slot_draws::bytes(const model::rank_shape& shape) {
  return shape.max_slots * (sizeof(state) + sample::token_counts::bytes(different_tokens(shape))) +
         shape.max_batched_tokens * sizeof(token_id);
}

void slot_draws::admit(const model::step_plan_view& plan) {
  for (const model::slot_admit& a : plan.admits()) {
    state& s = slots_[a.slot];
    s.last = 0;
    s.sampling = {a.temperature,      a.top_k, a.top_p,  a.min_p, a.repetition_penalty, a.frequency_penalty,
                  a.presence_penalty, a.seed,  a.choice};
    s.biases.clear();
    for (const auto& b : plan.biases().subspan(a.bias_offset, a.bias_count)) s.biases.push_back({b.token, b.addend});
    sample::token_counts& counts = counts_[a.slot];
    counts.clear();
    const auto history = plan.tokens().subspan(a.history_offset, a.history_count);
    for (std::size_t i = 0; i < history.size(); ++i) {
      if (i < a.prompt_length)
        counts.add_prompt(history[i]);
      else
        counts.add_output(history[i]);
    }
  }
}

model::step_batch slot_draws::resolve(const model::step_batch& batch) {
  tokens_.assign(batch.tokens.begin(), batch.tokens.end());
  for (token_id& t : tokens_)
    if (model::is_last_token(t)) t = slots_[model::slot_of_last_token(t)].last;
  model::step_batch out = batch;
  out.tokens = tokens_;
  return out;
}

void slot_draws::drew(slot_id slot, token_id token) {
  slots_[slot].last = token;
  if (slots_[slot].sampling.penalizes()) counts_[slot].add_output(token);
}

}  // namespace troupe::cpu
