#pragma once
#include <string>
#include <string_view>

#include "src/base/ids.hpp"
#include "src/text/tokenizer.hpp"

namespace troupe::text {

struct detokenize_options {
  bool skip_special = true;  ///< leave out control and unknown tokens
};

/// Turns a stream of tokens into text as they come: a value per stream, which refers to a tokenizer that outlives it.
///
/// Every output is valid UTF-8. While the bytes so far end within a character, all that came since the last output is
/// held back (so text appears after the same tokens as with Hugging Face's DecodeStream); bytes that nothing can
/// complete become U+FFFD. All outputs together do not depend on where `append` was called.
class detokenizer {
 public:
  explicit detokenizer(const tokenizer& t, detokenize_options o = {}) : tokenizer_(&t), options_(o) {}

  /// Appends to `out` what the token makes known. Ids outside the vocabulary stand for nothing.
  void append(token_id, std::string& out);
  std::string append(token_id id) {
    std::string out;
    append(id, out);
    return out;
  }
  /// Appends what was held back: the stream is over. The detokenizer is then as new.
  void finish(std::string& out);
  std::string finish() {
    std::string out;
    finish(out);
    return out;
  }

  /// Bytes that are held back.
  std::size_t held() const noexcept { return ready_.size() + open_.size(); }

 private:
  void replace(std::size_t n_bytes);

  const tokenizer* tokenizer_;
  detokenize_options options_;
  bool started_ = false;  // a byte was seen
  std::string ready_;     // text that waits for open_ to be completed
  std::string open_;      // the beginning of a character
};

}  // namespace troupe::text
