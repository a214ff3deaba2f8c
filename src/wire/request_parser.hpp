#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include <troupe/request.hpp>

#include "src/wire/api_error.hpp"
#include "src/wire/response.hpp"

namespace troupe::wire {

struct parse_limits {
  std::uint32_t max_choices = 128;              ///< prompts × n of one request
  std::uint32_t max_messages = 16384;
  std::size_t max_prompt_bytes = 64u << 20;     ///< of all choices together: each choice carries its own copy
};

/// A completion request of either kind, valid as far as it can be judged without a tokenizer.
struct api_request {
  api_kind kind = api_kind::chat;
  std::string model;           ///< empty: not named
  bool stream = false;
  bool include_usage = false;
  std::uint32_t n = 1;         ///< choices per prompt
  troupe::request common;      ///< everything but the prompt
  std::vector<decltype(troupe::request::prompt)> prompts;  ///< at least one

  std::size_t choices() const noexcept { return prompts.size() * n; }
  /// The request of one choice. Index is prompt-major, as OpenAI numbers choices; the random key of a choice is its number
  /// within its prompt, so that prompts do not change each other's draws.
  troupe::request choice(std::size_t index) const;
  /// The same for a caller that goes through them in order: the last choice of a prompt takes it away instead of a copy.
  troupe::request take_choice(std::size_t index);

 private:
  troupe::request without_prompt(std::size_t index) const;
};

struct tokenize_request {
  std::string model;
  std::variant<text_prompt, chat_prompt> prompt;
  bool add_special_tokens = true;   ///< of what is encoded, a rendered chat included
  bool parse_special = true;
};

struct detokenize_request {
  std::string model;
  std::vector<std::int32_t> tokens;
  bool skip_special_tokens = false;
};

/// Reads bodies that anybody may send. One per thread: it keeps its buffers between requests. Bodies are JSON objects in
/// UTF-8, at most 64 levels deep; a repeated key anywhere, an unknown field, or a field whose meaning is not implemented
/// and that asks for something is refused with 400 and the field's path in `param`.
/// `body` is read in place; its capacity may grow (the parser reads up to 64 bytes past the end).
class request_parser {
 public:
  /// `defaults`: of the sampling parameters that a body leaves out.
  explicit request_parser(parse_limits = {}, sampling_params defaults = {});
  ~request_parser();
  request_parser(request_parser&&) noexcept;
  request_parser& operator=(request_parser&&) noexcept;

  parsed<api_request> chat(std::string& body);
  parsed<api_request> completion(std::string& body);
  parsed<tokenize_request> tokenize(std::string& body);
  parsed<detokenize_request> detokenize(std::string& body);

 private:
  class impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace troupe::wire
