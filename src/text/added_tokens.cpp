#include "src/text/added_tokens.hpp"

#include <algorithm>

#include "src/text/utf8.hpp"
#include "src/text/vocabulary.hpp"

namespace troupe::text {
namespace {

std::size_t previous_character(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while (begin > 0 && (text[begin] & 0xC0) == 0x80) --begin;
  return begin;
}

bool inside_word(std::string_view text, std::size_t begin, std::size_t end) {
  return (begin > 0 && is_word(decode_utf8(text.substr(previous_character(text, begin))))) ||
         (end < text.size() && is_word(decode_utf8(text.substr(end))));
}

}  // namespace

added_tokens::added_tokens(std::vector<added_token> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const added_token& t) { return t.content.empty(); });
  std::sort(tokens_.begin(), tokens_.end(), [](const added_token& a, const added_token& b) {
    return a.content != b.content ? a.content < b.content : a.id < b.id;
  });
  for (const added_token& t : tokens_) ++by_first_byte_[static_cast<unsigned char>(t.content[0]) + 1u];
  for (std::size_t b = 1; b < by_first_byte_.size(); ++b) by_first_byte_[b] += by_first_byte_[b - 1];
}

token_id added_tokens::find_exact(std::string_view content) const noexcept {
  const auto at = std::lower_bound(tokens_.begin(), tokens_.end(), content,
                                   [](const added_token& t, std::string_view c) { return t.content < c; });
  return at != tokens_.end() && at->content == content ? at->id : no_token;
}

const added_token* added_tokens::longest_at(std::string_view text) const {
  const auto first = static_cast<unsigned char>(text[0]);
  auto low = tokens_.begin() + by_first_byte_[first], high = tokens_.begin() + by_first_byte_[first + 1u];
  const added_token* longest = nullptr;
  // Narrows the sorted range to the tokens that agree with the text up to each depth. The shortest of the range stands
  // first in it.
  for (std::size_t depth = 1; low != high; ++depth) {
    if (low->content.size() == depth) {
      longest = &*low;
      while (low != high && low->content.size() == depth) ++low;
    }
    if (low == high || depth == text.size()) break;
    const auto byte = static_cast<unsigned char>(text[depth]);
    const auto less = [depth](const added_token& t, unsigned char b) {
      return static_cast<unsigned char>(t.content[depth]) < b;
    };
    const auto greater = [depth](unsigned char b, const added_token& t) {
      return b < static_cast<unsigned char>(t.content[depth]);
    };
    low = std::lower_bound(low, high, byte, less);
    high = std::upper_bound(low, high, byte, greater);
  }
  return longest;
}

std::optional<added_tokens::match> added_tokens::find(std::string_view text, std::size_t from,
                                                      bool parse_special) const {
  for (std::size_t at = from; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at]);
    const added_token* token =
        by_first_byte_[first] == by_first_byte_[first + 1u] ? nullptr : longest_at(text.substr(at));
    if (!token) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + token->content.size();
    at = end;
    if (token->special && !parse_special) continue;
    if (token->single_word && inside_word(text, begin, end)) continue;
    while (token->left_strip && begin > from) {
      const std::size_t before = previous_character(text, begin);
      if (!is_white_space(decode_utf8(text.substr(before)))) break;
      begin = before;
    }
    while (token->right_strip && end < text.size() && is_white_space(decode_utf8(text.substr(end))))
      end += utf8_size(text[end]);
    return match{begin, end, token->id};
  }
  return std::nullopt;
}

}  // namespace troupe::text
