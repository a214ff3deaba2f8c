#include "src/text/synthetic_tokenizer.hpp"

#include <algorithm>
#include <string>
#include <vector>

namespace troupe::text {
namespace {

constexpr std::string_view chat_source =
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}";

/// Common words of four letters and more, each behind a space, so that plain prompts are about as many tokens as words. None is of
/// the form of a made-up word.
constexpr std::string_view common_words =
    " time year people thing woman life child world school state family student group country problem hand part"
    " place case week company system program question work government number night point home water room mother"
    " area money story fact month right study book word business issue side kind head house service friend father"
    " power hour game line member city community name president team idea body information back parent face others"
    " level office door health person history party result morning reason research girl moment teacher force"
    " education";

const std::vector<std::string_view>& split_words() {
  static const std::vector<std::string_view> words = [] {
    std::vector<std::string_view> out;
    for (std::size_t at = 0; at < common_words.size();) {
      const std::size_t next = std::min(common_words.find(' ', at + 1), common_words.size());
      out.push_back(common_words.substr(at, next - at));
      at = next;
    }
    return out;
  }();
  return words;
}

/// Number `i` of all strings of n letters.
std::string letters(std::uint32_t i, int n) {
  std::string out(static_cast<std::size_t>(n), 'a');
  for (int k = n - 1; k >= 0; --k, i /= 26) out[static_cast<std::size_t>(k)] = static_cast<char>('a' + i % 26);
  return out;
}

/// Three syllables of a consonant and a vowel, four from the millionth word on: longer than `letters`, so never equal.
std::string made_up_word(std::uint32_t i) {
  constexpr std::string_view consonants = "bcdfghjklmnpqrstvwxz", vowels = "aeiou";
  std::string out = " ";
  for (int syllables = i < 1'000'000 ? 3 : 4; syllables > 0; --syllables, i /= 100) {
    out += consonants[i % 100 / 5];
    out += vowels[i % 5];
  }
  return out;
}

/// Text of the ordinary token number `i`.
std::string text_of(std::uint32_t i) {
  if (i < 256) return std::string(1, static_cast<char>(i));
  i -= 256;
  const auto& words = split_words();
  if (i < words.size()) return std::string(words[i]);
  i -= static_cast<std::uint32_t>(words.size());
  // What joins first comes first: an id is also a rank.
  constexpr std::uint32_t n2 = 26 * 26, n3 = n2 * 26;
  if (i < 26) return " " + letters(i, 1);
  if ((i -= 26) < n2) return letters(i, 2);
  if ((i -= n2) < n2) return " " + letters(i, 2);
  if ((i -= n2) < n3) return letters(i, 3);
  if ((i -= n3) < n3) return " " + letters(i, 3);
  return made_up_word(i - n3);
}

}  // namespace

result<opened_text> synthetic_tokenizer(std::uint32_t vocab, std::span<const token_id> eos) {
  std::vector<std::string> texts(vocab);
  std::vector<token_id> ordinary;
  vocabulary v;
  v.types.assign(vocab, token_type::normal);
  tokenizer_stages s;
  std::vector<added_token> added;
  for (const token_id id : eos) {
    const auto i = static_cast<std::size_t>(id);
    if (id < 0 || i >= vocab || v.types[i] == token_type::control) continue;
    v.types[i] = token_type::control;
    texts[i] = "<|end-" + std::to_string(id) + "|>";
    added.push_back({.id = id, .content = texts[i], .special = true});
    s.end_of_generation.push_back(id);
    if (s.eos == no_token) s.eos = id;
  }
  for (std::uint32_t i = 0; i < vocab; ++i) {
    if (v.types[i] == token_type::control) continue;
    texts[i] = text_of(static_cast<std::uint32_t>(ordinary.size()));
    ordinary.push_back(static_cast<token_id>(i));
  }
  if (ordinary.empty()) return failure(errc::invalid_argument, "a vocabulary of nothing but end tokens has no synthetic tokenizer");
  v.tokens.assign(texts.begin(), texts.end());

  auto table = token_table::make(v, token_table::spelling::plain);
  if (!table) return table.take_error();
  s.tokens = std::make_shared<const token_table>(std::move(*table));
  s.raw_added = added_tokens(std::move(added));

  bpe::options options;
  options.ignore_merges = true;  // made-up words are found whole only
  for (std::size_t b = 0; b < 256; ++b) options.byte_tokens[b] = ordinary[b % ordinary.size()];
  std::vector<float> scores(vocab);
  for (std::size_t i = 0; i < vocab; ++i) scores[i] = -static_cast<float>(i);
  s.model = std::make_shared<const bpe>(s.tokens, score_merges(scores), options);

  auto pre = find_pre_tokenizer("gpt-2");
  if (!pre) return pre.take_error();
  s.split = pre_tokenizer(std::move(pre->steps));

  opened_text out{std::make_shared<const tokenizer>(std::move(s)), nullptr};
  auto chat = open_chat_template(chat_source, out.tokens.get());
  if (!chat) return chat.take_error();
  out.chat = std::move(*chat);
  return out;
}

}  // namespace troupe::text
