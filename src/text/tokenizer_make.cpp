// From what a GGUF file says to the stages of a tokenizer.
#include <algorithm>
#include <array>
#include <cctype>

#include "src/text/tokenizer.hpp"

namespace troupe::text {
namespace {

// Texts of tokens with which models end a turn or an answer; files name only one or two of theirs by id. The list is
// that of llama.cpp (src/llama-vocab.cpp).
constexpr std::array<std::string_view, 25> ending_texts = {"<|eot_id|>",
                                                           "<|im_end|>",
                                                           "<|end|>",
                                                           "<|return|>",
                                                           "<|call|>",
                                                           "<|flush|>",
                                                           "<|calls|>",
                                                           "<end_of_turn>",
                                                           "<|endoftext|>",
                                                           "</s>",
                                                           "<|eom_id|>",
                                                           "<EOT>",
                                                           "_<EOT>",
                                                           "[EOT]",
                                                           "[EOS]",
                                                           "<|end_of_text|>",
                                                           "<end_of_utterance>",
                                                           "<eos>",
                                                           "<turn|>",
                                                           "<|tool_response>",
                                                           "<｜end▁of▁sentence｜>",
                                                           "[e~[",
                                                           "<|ifm|im_end|>",
                                                           "<|fim_pad|>",
                                                           "<|file_sep|>"};

bool is(vocabulary::setting s, bool otherwise) {
  return s == vocabulary::setting::unset ? otherwise : s == vocabulary::setting::on;
}

std::vector<added_token> find_added(const vocabulary& vocab) {
  std::string lower = vocab.model_name;
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  // Phi-3's chat tokens swallow the white space behind them; the file has no place to say so.
  const bool phi3 = lower.find("phi-3") != lower.npos || lower.find("phi3") != lower.npos;

  std::vector<added_token> out;
  for (std::size_t i = 0; i < vocab.types.size() && i < vocab.tokens.size(); ++i) {
    const token_type type = vocab.types[i];
    const std::string_view text = vocab.tokens[i];
    if (type != token_type::control && type != token_type::user_defined && type != token_type::unknown) continue;
    const bool strips = phi3 && text != "<unk>" && text != "<s>" && text != "<|endoftext|>";
    out.push_back({.id = static_cast<token_id>(i),
                   .content = std::string(text),
                   .special = type != token_type::user_defined,
                   .right_strip = strips});
  }
  return out;
}

std::vector<token_id> find_ends(const vocabulary& vocab, const added_tokens& added) {
  std::vector<token_id> ends = vocab.end_of_generation;
  for (const token_id id : {vocab.eos, vocab.eot, vocab.eom})
    if (id != no_token) ends.push_back(id);
  for (const std::string_view text : ending_texts)
    if (const token_id id = added.find_exact(text); id != no_token) ends.push_back(id);
  // Where an answer has parts (gpt-oss: channels), <|end|> closes a part only.
  const auto has = [&](std::string_view text) { return added.find_exact(text) != no_token; };
  if ((has("<|return|>") && has("<|call|>")) || (has("<|flush|>") && (has("<|call|>") || has("<|calls|>"))))
    std::erase(ends, added.find_exact("<|end|>"));
  return ends;
}

// True if some token has U+2581 behind another character: words cannot be cut apart at their spaces then.
bool has_inner_space(const vocabulary& vocab) {
  for (std::size_t i = 0; i < vocab.tokens.size(); ++i) {
    if (!vocab.types.empty() && vocab.types[i] != token_type::normal && vocab.types[i] != token_type::user_defined)
      continue;
    std::string_view rest = vocab.tokens[i];
    while (rest.starts_with(metaspace)) rest.remove_prefix(metaspace.size());
    if (rest.find(metaspace) != rest.npos) return true;
  }
  return false;
}

void find_byte_tokens(const token_table& tokens, bool fallback, std::array<token_id, 256>& out) {
  if (!fallback) {
    for (unsigned b = 0; b < 256; ++b) {
      const char c = static_cast<char>(b);
      out[b] = tokens.find({&c, 1});
    }
    return;
  }
  for (token_id id = 0; tokens.contains(id); ++id) {
    if (tokens.type(id) != token_type::byte) continue;
    token_id& slot = out[static_cast<unsigned char>(tokens.bytes(id)[0])];
    if (slot == no_token) slot = id;
  }
}

}  // namespace

result<std::shared_ptr<const tokenizer>> tokenizer::make(const vocabulary& vocab) {
  const bool sentencepiece = vocab.kind == tokenizer_kind::sentencepiece;
  named_pre_tokenizer pre;
  if (!sentencepiece) {
    auto found = find_pre_tokenizer(vocab.pre_tokenizer);
    if (!found) return found.take_error();
    pre = std::move(*found);
  }
  const bool characters = sentencepiece || pre.characters;
  for (const token_id id : {vocab.bos, vocab.eos, vocab.eot, vocab.eom, vocab.unk, vocab.pad})
    if (id != no_token && (id < 0 || static_cast<std::size_t>(id) >= vocab.tokens.size()))
      return failure(errc::invalid_file, "a special token has id " + std::to_string(id) + ", but there are " +
                                             std::to_string(vocab.tokens.size()) + " tokens");
  if (sentencepiece && vocab.scores.size() != vocab.tokens.size())
    return failure(errc::invalid_file, "the vocabulary has " + std::to_string(vocab.tokens.size()) + " tokens but " +
                                           std::to_string(vocab.scores.size()) + " scores");

  auto table =
      token_table::make(vocab, characters ? token_table::spelling::metaspace : token_table::spelling::byte_alphabet);
  if (!table) return table.take_error();

  tokenizer_stages s;
  s.tokens = std::make_shared<const token_table>(std::move(*table));
  s.raw_added = added_tokens(find_added(vocab));
  s.end_of_generation = find_ends(vocab, s.raw_added);
  s.eos = vocab.eos;
  s.bos = pre.no_bos ? no_token : vocab.bos;
  s.unknown = vocab.unk;
  s.pad = vocab.pad;

  bpe::options options;
  options.bytes = !characters;
  options.ignore_merges = pre.ignore_merges;
  options.whole_newlines = pre.characters;
  options.unknown = vocab.unk;
  options.fuse_unknown = characters;
  find_byte_tokens(*s.tokens, characters, options.byte_tokens);
  if (sentencepiece) {
    s.model = std::make_shared<const bpe>(s.tokens, score_merges(vocab.scores), options);
  } else {
    auto merges = read_merges(vocab, *s.tokens);
    if (!merges) return merges.take_error();
    s.model = std::make_shared<const bpe>(s.tokens, std::move(*merges), options);
  }

  const bool space_prefix = is(vocab.add_space_prefix, sentencepiece) && characters;
  std::vector<normalizer_step> normalizing;
  if (space_prefix) normalizing.push_back(prepend_step{" "});
  if (characters) normalizing.push_back(replace_step{" ", std::string(metaspace)});
  if (pre.nfc) normalizing.push_back(nfc_step{});
  s.normalize = normalizer(std::move(normalizing));
  if (sentencepiece && !has_inner_space(vocab)) pre.steps.push_back(metaspace_words_step{});
  s.split = pre_tokenizer(std::move(pre.steps));
  s.decode = {.strip_leading_space = space_prefix, .replace_every_byte = characters};

  const bool add_bos = is(vocab.add_bos, sentencepiece || pre.add_bos);
  if (add_bos && s.bos != no_token) s.prefix.push_back(s.bos);
  if (is(vocab.add_eos, false) && s.eos != no_token) s.suffix.push_back(s.eos);
  return std::shared_ptr<const tokenizer>(std::make_shared<tokenizer>(std::move(s)));
}

}  // namespace troupe::text
