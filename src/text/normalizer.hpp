#pragma once
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "src/base/result.hpp"

namespace troupe::text {

/// Steps of a normalizer, named as in Hugging Face's tokenizer.json.

/// Puts a text in front of what is not empty.
struct prepend_step {
  std::string text;
};
/// Replaces every occurrence of a string.
struct replace_step {
  std::string from, to;
};
/// Unicode normalization to NFC.
struct nfc_step {};

using normalizer_step = std::variant<prepend_step, replace_step, nfc_step>;

/// Rewrites text before it is cut into pieces. Immutable; safe to share between threads.
class normalizer {
 public:
  explicit normalizer(std::vector<normalizer_step> steps = {}) : steps_(std::move(steps)) {}

  /// `text` (valid UTF-8) as it is to be tokenized: `text` itself, or a view into `buffer`.
  result<std::string_view> operator()(std::string_view text, std::string& buffer) const;
  bool empty() const noexcept { return steps_.empty(); }

 private:
  std::vector<normalizer_step> steps_;
};

}  // namespace troupe::text
