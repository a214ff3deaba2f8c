#include "actors/front/validate.hpp"

#include <cmath>
#include <string>

namespace troupe::front {
namespace {

failure bad(const std::string& what) { return {errc::invalid_argument, what}; }

}  // namespace

/// NaN fails every comparison, so ranges are written as what must hold.
result<void> validate(const sampling_params& s, std::uint32_t vocab) {
  if (!(s.temperature >= 0 && s.temperature <= 100)) return bad("temperature: must be from 0 to 100");
  if (s.top_k < -1) return bad("top_k: must be -1 or 0 (all), or positive");
  if (!(s.top_p > 0 && s.top_p <= 1)) return bad("top_p: must be above 0 and at most 1");
  if (!(s.min_p >= 0 && s.min_p <= 1)) return bad("min_p: must be from 0 to 1");
  if (!(s.repetition_penalty > 0 && s.repetition_penalty <= 100)) return bad("repetition_penalty: must be above 0 and at most 100");
  if (!(std::fabs(s.frequency_penalty) <= 2)) return bad("frequency_penalty: must be from -2 to 2");
  if (!(std::fabs(s.presence_penalty) <= 2)) return bad("presence_penalty: must be from -2 to 2");
  if (s.logit_bias.size() > limits::bias_entries)
    return bad("logit_bias: at most " + std::to_string(limits::bias_entries) + " entries");
  for (const auto& [token, addend] : s.logit_bias) {
    if (token < 0 || static_cast<std::uint32_t>(token) >= vocab)
      return bad("logit_bias: token id " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(vocab));
    if (!(std::fabs(addend) <= 100)) return bad("logit_bias: values must be from -100 to 100");
  }
  return {};
}

result<void> validate(const request& r, std::uint32_t vocab) {
  if (auto sampling = validate(r.sampling, vocab); !sampling) return sampling;
  if (r.stop.size() > limits::stop_strings) return bad("stop: at most " + std::to_string(limits::stop_strings) + " strings");
  for (const std::string& stop : r.stop)
    if (stop.empty() || stop.size() > limits::stop_bytes)
      return bad("stop: each string must have 1 to " + std::to_string(limits::stop_bytes) + " bytes");
  if (r.stop_token_ids.size() > limits::stop_tokens)
    return bad("stop_token_ids: at most " + std::to_string(limits::stop_tokens) + " ids");
  for (std::int32_t id : r.stop_token_ids)
    if (id < 0 || static_cast<std::uint32_t>(id) >= vocab)
      return bad("stop_token_ids: " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(vocab));
  if (const auto* chat = std::get_if<chat_prompt>(&r.prompt); chat && chat->messages.empty())
    return bad("messages: must hold at least one message");
  return {};
}

}  // namespace troupe::front
