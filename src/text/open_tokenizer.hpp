#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/result.hpp"
#include "src/text/chat_template.hpp"
#include "src/text/tokenizer.hpp"

namespace troupe::text {

/// A chat template with the special tokens of its model. Immutable; any thread.
class chat_renderer {
 public:
  chat_renderer(chat_template t, const tokenizer* tokens);
  /// Adds the special tokens to `context` and renders.
  result<std::string> render(chat_context context) const;
  const std::string& source() const { return template_.source(); }

 private:
  chat_template template_;
  std::vector<std::pair<std::string, std::string>> special_tokens_;
};

struct opened_text {
  std::shared_ptr<const tokenizer> tokens;
  std::shared_ptr<const chat_renderer> chat;  ///< null: the model has no template
};

/// The tokenizer and the chat template of a model file. Errors: unsupported for a folder (tokenizer.json is not read
/// yet) and for kinds of tokenizers that Troupe does not know, invalid_file for contradictions.
result<opened_text> open_tokenizer(const std::string& path);

/// A template from elsewhere, with the special tokens of `tokens` (may be null).
result<std::shared_ptr<const chat_renderer>> open_chat_template(std::string_view source, const tokenizer* tokens);

}  // namespace troupe::text
