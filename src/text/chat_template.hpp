#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/request.hpp>

#include "src/base/result.hpp"
#include "src/text/jinja_program.hpp"

namespace troupe::text {

/// What a chat template is rendered with. Build it from JSON or from a request; then set the rest.
struct chat_context {
  jinja::value messages;   ///< list of dicts
  jinja::value tools;      ///< list of dicts, or none
  jinja::value variables;  ///< dict of further variables; they win over special tokens
  bool add_generation_prompt = true;
  /// bos_token, eos_token, …: names and texts as in the tokenizer's files. Those it does not have are left out, and
  /// are undefined in the template.
  std::vector<std::pair<std::string, std::string>> special_tokens;
  /// What strftime_now tells. Absent: the template sees no strftime_now (most then use a fixed date).
  std::optional<jinja::civil_time> now;

  /// Texts of a JSON array, of an array or null or nothing, and of an object or nothing. Fails with invalid_argument.
  static result<chat_context> from_json(std::string_view messages, std::string_view tools = {},
                                        std::string_view variables = {}, const jinja::limits& bounds = {});
  /// `extra_json` of a message adds fields; role and content come from the members.
  static result<chat_context> from_prompt(const chat_prompt& prompt, const jinja::limits& bounds = {});
};

/// The text that a model's own Jinja template makes of a conversation: byte for byte what transformers'
/// `apply_chat_template(tokenize=False)` makes of it. Immutable; `render` may be called from any thread.
class chat_template {
 public:
  /// Fails with invalid_file and the line, or with unsupported (see jinja::program).
  static result<chat_template> parse(std::string_view source, const jinja::options& how = {});

  /// Fails with invalid_argument: the template's own message if it called raise_exception, else line and reason.
  result<std::string> render(const chat_context& context) const;

  /// Whether the template reads this variable ("tools", "enable_thinking", …).
  bool mentions(std::string_view variable) const { return program_.mentions(variable); }
  const std::string& source() const { return source_; }

 private:
  chat_template(std::string source, jinja::program p) : source_(std::move(source)), program_(std::move(p)) {}
  std::string source_;
  jinja::program program_;
};

}  // namespace troupe::text
