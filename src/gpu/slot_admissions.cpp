#include "src/gpu/slot_admissions.hpp"

#include <algorithm>

namespace troupe::gpu {

namespace g = kernels::gpu;

slot_admissions::space slot_admissions::lay_out(layout& l, const model::rank_shape& s) {
  space at;
  at.sampling = l.add<g::slot_sampling>(s.max_slots);
  at.biases = l.add<g::bias_entry>(std::uint64_t{s.max_slots} * max_biases);
  at.counts = l.add<std::uint32_t>(std::uint64_t{s.max_slots} * s.vocab);
  at.last_token = l.add<std::int32_t>(s.max_slots);
  return at;
}

result<slot_admissions> slot_admissions::make(const model::rank_shape& s, const space& at, std::byte* base) {
  slot_admissions a;
  a.room_ = room_of(s);
  a.vocab_ = s.vocab;
  layout l;
  l.add<g::slot_entry>(a.room_.slots);
  a.biases_at_ = l.add<g::bias_entry>(a.room_.biases);
  a.resets_at_ = l.add<g::count_reset>(a.room_.slots);
  a.n_resets_at_ = l.add<std::uint32_t>(1);
  a.history_at_ = l.add<std::int32_t>(a.room_.tokens);
  a.turn_bytes_ = l.bytes();
  auto m = memory::pinned(a.turn_bytes_ * turns, "admissions");
  if (!m) return m.take_error();
  a.pinned_ = std::move(*m);
  a.sampling_ = reinterpret_cast<g::slot_sampling*>(base + at.sampling);
  a.biases_ = reinterpret_cast<g::bias_entry*>(base + at.biases);
  a.counts_ = reinterpret_cast<std::uint32_t*>(base + at.counts);
  a.last_token_ = reinterpret_cast<std::int32_t*>(base + at.last_token);
  checked ok;
  ok(cudaMemset(a.last_token_, 0, s.max_slots * sizeof(std::int32_t)), "cudaMemset")(
      cudaMemset(a.counts_, 0, std::uint64_t{s.max_slots} * s.vocab * sizeof(std::uint32_t)), "cudaMemset");
  if (!ok.ok()) return ok.take().take_error();
  return a;
}

namespace {

bool penalizes_of(const model::slot_admit& a) {
  return a.repetition_penalty != 1.0f || a.frequency_penalty != 0.0f || a.presence_penalty != 0.0f;
}

/// Of the staging memory, beside an entry.
struct need {
  std::uint32_t biases, tokens;
};
need need_of(const model::slot_admit& a, const slot_admissions::room& r) {
  return {std::min(a.bias_count, slot_admissions::max_biases),
          penalizes_of(a) ? std::min(a.history_count, r.tokens) : 0u};
}

}  // namespace

slot_admissions::room slot_admissions::room_of(const model::rank_shape& s) {
  constexpr std::uint32_t most_biased = 16;  // slots with all their biases, which few requests have
  return {s.max_slots, std::min(s.max_slots, most_biased) * max_biases, s.max_model_len};
}

std::size_t slot_admissions::fitting(std::span<const model::slot_admit> admits, const room& r) {
  std::uint64_t biases = 0, tokens = 0;
  for (std::size_t i = 0; i < admits.size(); ++i) {
    const need n = need_of(admits[i], r);
    if (i == r.slots || (biases += n.biases) > r.biases || (tokens += n.tokens) > r.tokens) return i;
  }
  return admits.size();
}

result<void> slot_admissions::admit(const model::step_plan_view& plan, std::uint32_t turn, cudaStream_t stream) {
  std::span<const model::slot_admit> left = plan.admits();
  while (!left.empty()) {
    const std::size_t n = fitting(left, room_);
    if (auto ok = enqueue(plan, left.first(n), turn, stream); !ok) return ok;
    left = left.subspan(n);
    if (left.empty()) break;
    if (auto ok = check(cudaStreamSynchronize(stream), "cudaStreamSynchronize"); !ok) return ok;
  }
  return {};
}

result<void> slot_admissions::enqueue(const model::step_plan_view& plan, std::span<const model::slot_admit> piece,
                                      std::uint32_t turn, cudaStream_t stream) {
  const std::uint64_t mine = turn * turn_bytes_;
  auto* const entries = pinned_.at<g::slot_entry>(mine);
  auto* const biases = pinned_.at<g::bias_entry>(mine + biases_at_);
  auto* const resets = pinned_.at<g::count_reset>(mine + resets_at_);
  auto* const n_resets = pinned_.at<std::uint32_t>(mine + n_resets_at_);
  auto* const history = pinned_.at<std::int32_t>(mine + history_at_);
  std::uint32_t n_entries = 0, n_biases = 0, n_tokens = 0;
  *n_resets = 0;
  for (const model::slot_admit& a : piece) {
    const need n = need_of(a, room_);
    const bool penalizes = penalizes_of(a);
    entries[n_entries++] = {{a.seed, a.choice, a.top_k, a.temperature, a.top_p, a.min_p, a.repetition_penalty,
                             a.frequency_penalty, a.presence_penalty, a.slot * max_biases, n.biases, penalizes},
                            a.slot,
                            n_biases};
    for (const model::logit_bias_entry& e : plan.biases().subspan(a.bias_offset, n.biases))
      biases[n_biases++] = {e.token, e.addend};
    if (!penalizes) continue;
    resets[(*n_resets)++] = {a.slot, n_tokens, n.tokens, a.prompt_length};
    std::ranges::copy(plan.tokens().subspan(a.history_offset, n.tokens), history + n_tokens);
    n_tokens += n.tokens;
  }
  checked ok;
  ok(g::admit_slots(entries, n_entries, biases, sampling_, biases_, stream), "admit_slots");
  ok(g::reset_counts(resets, n_resets, *n_resets, history, counts_, vocab_, stream), "reset_counts");
  return ok.take();
}

}  // namespace troupe::gpu
