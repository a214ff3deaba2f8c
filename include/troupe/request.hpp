#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <troupe/error.hpp>

namespace troupe {

/// How the next token is drawn. Order of application: logit_bias, penalties, temperature, min_p, top_k, top_p, draw.
struct sampling_params {
  float temperature = 1.0f;         ///< 0: greedy, the lowest id wins a tie
  std::int32_t top_k = 0;           ///< 0 or -1: all
  float top_p = 1.0f;               ///< (0, 1]
  float min_p = 0.0f;               ///< [0, 1): keeps tokens with p >= min_p * p_max
  float repetition_penalty = 1.0f;  ///< > 0; prompt and output tokens
  float frequency_penalty = 0.0f;   ///< [-2, 2]; output tokens only
  float presence_penalty = 0.0f;    ///< [-2, 2]; output tokens only
  std::optional<std::uint64_t> seed;                       ///< absent: drawn by the engine
  std::uint32_t choice = 0;                                ///< index among n parallel choices; part of the random key
  std::vector<std::pair<std::int32_t, float>> logit_bias;  ///< token id, addend
};

/// One chat message. `extra_json`, if not empty, is a JSON object with further fields that the template may read
/// (name, tool_calls, tool_call_id, …) and wins over nothing: role and content come from the members.
struct chat_message {
  std::string role;
  std::string content;
  std::string extra_json;
};

struct chat_prompt {
  std::vector<chat_message> messages;
  std::string tools_json;          ///< empty or a JSON array, handed to the template as `tools`
  std::string template_vars_json;  ///< empty or a JSON object of extra template variables
  bool add_generation_prompt = true;
};

/// A text prompt is encoded with special tokens parsed if `parse_special`, and with BOS if the tokenizer adds one.
struct text_prompt {
  std::string text;
  bool add_special_tokens = true;
  bool parse_special = true;
};

/// Receives the raw float32 logits of every prompt position (teacher forcing). Called on the rank's thread, in order of
/// position, once each; must not block or throw.
class logits_sink {
 public:
  virtual ~logits_sink() = default;
  virtual void on_logits(std::uint32_t position, std::span<const float> logits) = 0;
};

/// One generation. A plain value; `engine::submit` copies what it needs.
struct request {
  std::variant<text_prompt, std::vector<std::int32_t>, chat_prompt> prompt;
  sampling_params sampling;
  std::optional<std::uint32_t> max_tokens;    ///< absent: the rest of the context; 0: compute the prompt only
  std::vector<std::string> stop;              ///< ends the text before the first match (at most 16, each 1–256 bytes)
  std::vector<std::int32_t> stop_token_ids;   ///< end the text; not part of it
  bool ignore_eos = false;
  bool include_stop_in_output = false;
  bool skip_special_tokens = true;
  std::int32_t priority = 0;                  ///< lower runs sooner
  std::optional<std::chrono::steady_clock::time_point> deadline;
  std::string id;                             ///< echoed in events and logs; empty: the engine makes one
  std::shared_ptr<logits_sink> logits;        ///< set: teacher-forced run over the prompt
};

enum class finish_reason { none, stop, length, cancelled, error };

struct usage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t completion_tokens = 0;
  std::uint32_t cached_tokens = 0;
};

/// Where the time of a request went, in seconds since it was submitted.
struct timings {
  double encoded = 0, admitted = 0, first_token = 0, finished = 0;
};

/// A piece of a running answer. `text` is always whole UTF-8 characters and may be empty (a stop string may be starting).
struct piece {
  std::string text;
  std::vector<std::int32_t> tokens;   ///< the ids that this piece completes, in order
};

/// The end of an answer: exactly one per accepted request.
struct completion {
  finish_reason reason = finish_reason::none;
  std::error_code error;              ///< set when reason is cancelled or error
  std::string message;                ///< one sentence for a person, when error is set
  std::optional<std::string> stop_match;  ///< the stop string that ended the text
  troupe::usage usage;
  troupe::timings timings;
};

}  // namespace troupe
