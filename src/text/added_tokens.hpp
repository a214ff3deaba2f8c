#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/ids.hpp"

namespace troupe::text {

/// A token that is found in the text as a whole, before anything is cut or merged. The flags are those of
/// tokenizer.json's "added_tokens".
struct added_token {
  token_id id;
  std::string content;
  bool special = false;      ///< found only where special tokens are parsed; left out by skip_special
  bool left_strip = false;   ///< swallows white space before it
  bool right_strip = false;  ///< swallows white space behind it
  bool single_word = false;  ///< not within a word
  bool normalized = false;   ///< looked for in the normalized text
};

/// Finds added tokens: the leftmost, of several at one place the longest. Immutable; safe to share between threads.
class added_tokens {
 public:
  explicit added_tokens(std::vector<added_token> = {});

  struct match {
    std::size_t begin, end;  ///< with the white space that the token swallows
    token_id id;
  };
  /// The first match in `text` (valid UTF-8) at `from` or later; without `parse_special` special tokens are text, and
  /// so is all that lies within them.
  std::optional<match> find(std::string_view text, std::size_t from, bool parse_special) const;

  bool empty() const noexcept { return tokens_.empty(); }
  /// The token of exactly this content, or `no_token`.
  token_id find_exact(std::string_view content) const noexcept;

 private:
  const added_token* longest_at(std::string_view text) const;

  std::vector<added_token> tokens_;                 // sorted by content
  std::array<std::uint32_t, 257> by_first_byte_{};  // tokens_ that begin with byte b: [b] to [b + 1]
};

}  // namespace troupe::text
