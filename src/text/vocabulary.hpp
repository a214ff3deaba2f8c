#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/ids.hpp"

namespace troupe::text {

inline constexpr token_id no_token = -1;

/// What a vocabulary entry is; the numbers are those of `tokenizer.ggml.token_type` and of sentencepiece's model file.
enum class token_type : std::uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

/// How the vocabulary was made; picks the pipeline of a tokenizer.
enum class tokenizer_kind : std::uint8_t {
  byte_level,     ///< "gpt2": merges by rank over bytes, tokens written in the alphabet of byte_alphabet.hpp
  sentencepiece,  ///< "llama": merges by score over characters, U+2581 for a space, byte tokens as a last resort
};

/// A merge of two tokens, by their text as written in the vocabulary. Its rank is its place in the list.
struct merge_text {
  std::string_view left, right;
};

/// All that a file says about a tokenizer, before any table is built from it. Plain data: `tokenizer::create` checks
/// it.
struct vocabulary {
  /// Keeps alive what the views below point into, where the reader had to own it; may be null (see the reader).
  std::shared_ptr<const void> storage;

  tokenizer_kind kind = tokenizer_kind::byte_level;
  std::string pre_tokenizer;             ///< name as in `tokenizer.ggml.pre`; empty: not given
  std::string model_name;                ///< `general.name`; a few families are known by it only
  std::vector<std::string_view> tokens;  ///< by id, as written in the file
  std::vector<token_type> types;         ///< by id; empty: all normal
  std::vector<float> scores;             ///< by id; empty, or as many as tokens
  std::vector<merge_text> merges;

  token_id bos = no_token, eos = no_token, eot = no_token, eom = no_token, unk = no_token, pad = no_token;
  std::vector<token_id> end_of_generation;  ///< in addition to eos, eot, eom and what is known by its text

  enum class setting : std::uint8_t { unset, off, on };
  setting add_bos = setting::unset, add_eos = setting::unset, add_space_prefix = setting::unset;

  std::string chat_template;                                         ///< empty: none
  std::vector<std::pair<std::string, std::string>> named_templates;  ///< other templates (name, text): tool_use, …
};

}  // namespace troupe::text
