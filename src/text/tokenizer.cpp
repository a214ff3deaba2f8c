#include "src/text/tokenizer.hpp"

#include <algorithm>

#include "src/text/detokenizer.hpp"
#include "src/text/utf8.hpp"

namespace troupe::text {

struct tokenizer::work {
  std::vector<token_id> out;
  std::string normalized;
  pre_tokenizer::scratch split;
  bpe::scratch model;
};

tokenizer::tokenizer(tokenizer_stages stages) : stages_(std::move(stages)) {
  auto& ends = stages_.end_of_generation;
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
}

result<void> tokenizer::encode_pieces(std::string_view text, bool at_start, work& w) const {
  auto cut = stages_.split(text, at_start, w.split);
  if (!cut) return cut;
  for (const std::string_view piece : w.split.pieces) stages_.model->encode(piece, w.model, w.out);
  return {};
}

result<void> tokenizer::encode_text(std::string_view text, bool at_start, bool parse_special, work& w) const {
  auto normalized = stages_.normalize(text, w.normalized);
  if (!normalized) return normalized.take_error();
  text = *normalized;
  std::size_t at = 0;
  if (!stages_.normalized_added.empty()) {
    while (const auto found = stages_.normalized_added.find(text, at, parse_special)) {
      auto before = encode_pieces(text.substr(at, found->begin - at), at_start && at == 0, w);
      if (!before) return before;
      w.out.push_back(found->id);
      at = found->end;
    }
  }
  return encode_pieces(text.substr(at), at_start && at == 0, w);
}

result<std::vector<token_id>> tokenizer::encode(std::string_view text, encode_options options) const {
  if (text.size() > longest_text)
    return failure(errc::invalid_argument, "the text has " + std::to_string(text.size()) + " bytes: at most " +
                                               std::to_string(longest_text) + " are tokenized at once");
  if (const std::size_t at = first_invalid_utf8(text); at != valid_utf8)
    return failure(errc::invalid_argument,
                   "the text is not UTF-8 at byte " + std::to_string(at) + ": send it in UTF-8");
  work w;
  w.out.reserve(text.size() / 3 + 8);
  if (options.add_special_tokens) w.out = stages_.prefix;
  std::size_t at = 0;
  while (const auto found = stages_.raw_added.find(text, at, options.parse_special)) {
    if (found->begin > at) {
      auto before = encode_text(text.substr(at, found->begin - at), at == 0, options.parse_special, w);
      if (!before) return before.take_error();
    }
    w.out.push_back(found->id);
    at = found->end;
  }
  if (at < text.size()) {
    auto rest = encode_text(text.substr(at), at == 0, options.parse_special, w);
    if (!rest) return rest.take_error();
  }
  if (options.add_special_tokens) w.out.insert(w.out.end(), stages_.suffix.begin(), stages_.suffix.end());
  return std::move(w.out);
}

std::string tokenizer::decode(std::span<const token_id> ids, bool skip_special) const {
  detokenizer d(*this, {.skip_special = skip_special});
  std::string out;
  for (const token_id id : ids) d.append(id, out);
  d.finish(out);
  return out;
}

bool tokenizer::is_end_of_generation(token_id id) const noexcept {
  return std::binary_search(stages_.end_of_generation.begin(), stages_.end_of_generation.end(), id);
}

token_id tokenizer::find(std::string_view content) const noexcept {
  for (const added_tokens* added : {&stages_.raw_added, &stages_.normalized_added})
    if (const token_id id = added->find_exact(content); id != no_token) return id;
  return stages_.tokens->find(content);
}

}  // namespace troupe::text
