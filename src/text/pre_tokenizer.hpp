#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "src/base/result.hpp"
#include "src/text/split_pattern.hpp"

namespace troupe::text {

/// Steps of a pre-tokenizer: each cuts every piece of the one before. Named as in Hugging Face's tokenizer.json.

/// Cuts at the matches of an expression.
struct split_step {
  enum class behavior : std::uint8_t { isolated, removed, merged_with_previous, merged_with_next, contiguous };
  std::shared_ptr<const split_pattern> pattern;
  behavior keep = behavior::isolated;
  bool invert = false;  ///< what lies between matches counts as the match
};
/// Cuts out numbers (category N), one by one or run by run.
struct digits_step {
  bool individual = true;
};
/// Cuts runs of digits (Nd) into groups of three, counted from the right, as some families' look-aheads do: those take
/// quadratic time, this does not.
struct digit_groups_step {
  /// `(?=(\d{3})+(?!\d))`: cuts before full groups only. Else `\d{1,3}(?=(?:\d{3})*\b)`: also at both ends of the run,
  /// and leaves runs alone that a word character follows.
  bool before_full_groups = false;
};
/// Puts U+2581 in front of a piece that does not begin with it and cuts before each one; spaces become U+2581.
struct metaspace_step {
  enum class prepend : std::uint8_t { never, first, always };
  prepend scheme = prepend::always;
  bool split = true;
};
/// Cuts before each U+2581 that follows another character. Changes no result where no token has U+2581 behind another
/// character, and keeps the pieces short.
struct metaspace_words_step {};

using pre_tokenizer_step =
    std::variant<split_step, digits_step, digit_groups_step, metaspace_step, metaspace_words_step>;

/// Cuts text into the pieces that tokens never cross. Immutable; safe to share between threads.
class pre_tokenizer {
 public:
  explicit pre_tokenizer(std::vector<pre_tokenizer_step> steps = {}) : steps_(std::move(steps)) {}

  /// Working memory, one per thread at a time; holds the pieces of the last call.
  struct scratch {
    std::vector<std::string_view> pieces;

   private:
    friend class pre_tokenizer;
    std::vector<std::string_view> next;
    std::deque<std::string> rewritten;  // texts that steps had to change; a deque keeps the views valid
    split_pattern::workspace work;
  };

  /// Cuts `text` (valid UTF-8) into `scratch.pieces`: views into `text` or `scratch`, none empty. `at_start`: this is
  /// the beginning of the input, not what follows an added token.
  result<void> operator()(std::string_view text, bool at_start, scratch&) const;

 private:
  result<void> apply(const split_step&, std::string_view, bool, scratch&) const;
  result<void> apply(const digits_step&, std::string_view, bool, scratch&) const;
  result<void> apply(const digit_groups_step&, std::string_view, bool, scratch&) const;
  result<void> apply(const metaspace_step&, std::string_view, bool, scratch&) const;
  result<void> apply(const metaspace_words_step&, std::string_view, bool, scratch&) const;

  std::vector<pre_tokenizer_step> steps_;
};

/// What a value of `tokenizer.ggml.pre` stands for.
struct named_pre_tokenizer {
  std::vector<pre_tokenizer_step> steps;
  bool ignore_merges = false;
  bool add_bos = false;     ///< unless the file says otherwise
  bool nfc = false;         ///< the family's own tokenizer normalizes its input to NFC
  bool no_bos = false;      ///< the family has none, whatever id the file gives
  bool characters = false;  ///< tokens are UTF-8 with U+2581 for spaces and byte fallback, not the byte alphabet
};
/// Looks the name up; an empty name means "default". Fails with `unsupported`, naming it, if it is not known.
result<named_pre_tokenizer> find_pre_tokenizer(std::string_view name);
/// All names that `find_pre_tokenizer` knows.
std::vector<std::string_view> pre_tokenizer_names();

}  // namespace troupe::text
