#include "src/text/detokenizer.hpp"

#include "src/text/utf8.hpp"

namespace troupe::text {
namespace {

// A stream that never completes a character must not be held back for ever.
constexpr std::size_t most_held = 256;

}  // namespace

void detokenizer::replace(std::size_t n_bytes) {
  constexpr std::string_view replacement = "\xEF\xBF\xBD";
  for (std::size_t i = 0; i < (tokenizer_->decoding().replace_every_byte ? n_bytes : 1); ++i) ready_ += replacement;
}

void detokenizer::append(token_id id, std::string& out) {
  if (options_.skip_special && tokenizer_->is_special(id)) return;
  std::string_view bytes = tokenizer_->bytes(id);
  if (bytes.empty()) return;
  if (!started_) {
    started_ = true;
    if (tokenizer_->decoding().strip_leading_space && bytes[0] == ' ') bytes.remove_prefix(1);
  }
  open_ += bytes;
  std::string_view left = open_;
  while (!left.empty()) {
    const utf8_step step = first_utf8(left);
    if (step.what == utf8_step::state::cut_off) break;
    if (step.what == utf8_step::state::character)
      ready_ += left.substr(0, step.size);
    else
      replace(step.size);
    left.remove_prefix(step.size);
  }
  open_.erase(0, open_.size() - left.size());
  if (open_.empty() || ready_.size() > most_held) {
    out += ready_;
    ready_.clear();
  }
}

void detokenizer::finish(std::string& out) {
  if (!open_.empty()) replace(open_.size());
  out += ready_;
  ready_.clear();
  open_.clear();
  started_ = false;
}

}  // namespace troupe::text
