#pragma once
#include <cstdint>
#include <optional>

#include <troupe/request.hpp>

namespace troupe {

/// Values of some sampling parameters: what a model's files recommend, or what a person said. The others stay as they are.
struct sampling_choices {
  std::optional<float> temperature;
  std::optional<std::int32_t> top_k;
  std::optional<float> top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty;
  std::optional<std::uint64_t> seed;

  void apply_to(sampling_params& s) const {
    s.temperature = temperature.value_or(s.temperature);
    s.top_k = top_k.value_or(s.top_k);
    s.top_p = top_p.value_or(s.top_p);
    s.min_p = min_p.value_or(s.min_p);
    s.repetition_penalty = repetition_penalty.value_or(s.repetition_penalty);
    s.frequency_penalty = frequency_penalty.value_or(s.frequency_penalty);
    s.presence_penalty = presence_penalty.value_or(s.presence_penalty);
    if (seed) s.seed = seed;
  }
  bool operator==(const sampling_choices&) const = default;
};

}  // namespace troupe
