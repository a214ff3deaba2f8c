#include "src/gpu/slot_admissions.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

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
  a.shape_ = s;
  layout l;
  l.add<staged>(batch);
  a.reset_at_ = l.add<g::count_reset>(2);  // the second one's room holds the count
  a.history_at_ = l.add<std::int32_t>(s.max_model_len);
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

}  // namespace

bool slot_admissions::waits(const model::step_plan_view& plan) {
  return plan.admits().size() > batch || std::ranges::count_if(plan.admits(), penalizes_of) > 1;
}

result<void> slot_admissions::admit(const model::step_plan_view& plan, std::uint32_t turn, cudaStream_t stream) {
  const auto admits = plan.admits();
  std::byte* const mine = pinned_.data() + turn * turn_bytes_;
  auto* const stage = reinterpret_cast<staged*>(mine);
  auto* const reset = reinterpret_cast<g::count_reset*>(mine + reset_at_);
  auto* const history = reinterpret_cast<std::int32_t*>(mine + history_at_);
  bool history_used = false;
  checked ok;
  for (std::size_t i = 0; i < admits.size() && ok.ok(); ++i) {
    const model::slot_admit& a = admits[i];
    if (i > 0 && i % batch == 0) ok(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    staged& s = stage[i % batch];
    const bool penalizes = penalizes_of(a);
    const std::uint32_t n_biases = std::min(a.bias_count, max_biases);
    s.sampling = {a.seed,
                  a.choice,
                  a.top_k,
                  a.temperature,
                  a.top_p,
                  a.min_p,
                  a.repetition_penalty,
                  a.frequency_penalty,
                  a.presence_penalty,
                  a.slot * max_biases,
                  n_biases,
                  penalizes};
    ok(cudaMemcpyAsync(sampling_ + a.slot, &s.sampling, sizeof s.sampling, cudaMemcpyHostToDevice, stream),
       "cudaMemcpyAsync");
    if (n_biases > 0) {
      for (std::uint32_t b = 0; b < n_biases; ++b) {
        const model::logit_bias_entry& e = plan.biases()[a.bias_offset + b];
        s.biases[b] = {e.token, e.addend};
      }
      ok(cudaMemcpyAsync(biases_ + std::size_t{a.slot} * max_biases, s.biases, n_biases * sizeof(g::bias_entry),
                         cudaMemcpyHostToDevice, stream),
         "cudaMemcpyAsync");
    }
    if (!penalizes) continue;
    if (history_used) ok(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    history_used = true;
    const auto tokens = plan.tokens().subspan(a.history_offset, std::min(a.history_count, shape_.max_model_len));
    std::copy(tokens.begin(), tokens.end(), history);
    reset[0] = {a.slot, 0, static_cast<std::uint32_t>(tokens.size()), a.prompt_length};
    auto* const one = reinterpret_cast<std::uint32_t*>(reset + 1);
    *one = 1;
    ok(g::reset_counts(reset, one, 1, history, counts_, shape_.vocab, stream), "reset_counts");
  }
  return ok.take();
}

}  // namespace troupe::gpu
