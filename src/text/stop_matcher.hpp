#pragma once
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::text {

/// Finds stop strings in a text that arrives in pieces. A value per stream.
///
/// The match that counts is the one that ends first (of several ending at one byte the longest): what a reader of
/// single bytes would meet, so the result does not depend on how the text was cut into tokens.
class stop_matcher {
 public:
  explicit stop_matcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  struct outcome {
    std::string text;                  ///< safe to show: no stop string can begin inside it
    std::optional<std::size_t> match;  ///< index of the stop string; `text` then ends before it
  };

  /// Adds `text`; must not be called after a match.
  outcome append(std::string_view text);

  /// The text has ended without a match: what was held back.
  std::string finish() { return std::move(held_); }

  /// How many bytes are held back.
  std::size_t held() const noexcept { return held_.size(); }

 private:
  std::size_t longest_started() const;

  std::vector<std::string> stops_;
  std::string held_;
};

}  // namespace troupe::text
