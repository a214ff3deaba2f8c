#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/ids.hpp"
#include "src/base/result.hpp"
#include "src/text/added_tokens.hpp"
#include "src/text/bpe.hpp"
#include "src/text/normalizer.hpp"
#include "src/text/pre_tokenizer.hpp"
#include "src/text/token_table.hpp"
#include "src/text/vocabulary.hpp"

namespace troupe::text {

struct encode_options {
  bool add_special_tokens = true;  ///< what the model puts around a text: BOS, EOS
  bool parse_special = true;       ///< special tokens written in the text count as such; false for untrusted text
};

/// How bytes of tokens become text again; used by `detokenizer`.
struct decoder {
  bool strip_leading_space = false;  ///< the first space of the text was put there by the normalizer
  bool replace_every_byte = false;   ///< a byte that is no UTF-8 becomes U+FFFD by itself, not with its neighbours
};

/// The stages of a tokenizer, in the order in which text passes them; the names follow Hugging Face's tokenizers.
/// A reader of tokenizer files fills this and hands it to `tokenizer`.
struct tokenizer_stages {
  std::shared_ptr<const token_table> tokens;
  added_tokens raw_added;  ///< found in the text as given
  normalizer normalize;
  added_tokens normalized_added;  ///< found after normalizing
  pre_tokenizer split;
  std::shared_ptr<const bpe> model;
  std::vector<token_id> prefix, suffix;  ///< post-processor: added to every text, if wanted
  decoder decode;

  token_id bos = no_token, eos = no_token, unknown = no_token, pad = no_token;
  std::vector<token_id> end_of_generation;
};

/// Text to tokens and back. Immutable and safe to share between threads; share it as `shared_ptr<const tokenizer>`.
class tokenizer {
 public:
  /// The tokenizer that the vocabulary of a GGUF file describes. The views in it are not used after the call. Fails
  /// with `invalid_file` if the vocabulary contradicts itself, `unsupported` if its pre-tokenizer is not known.
  static result<std::shared_ptr<const tokenizer>> make(const vocabulary&);
  explicit tokenizer(tokenizer_stages);

  static constexpr std::size_t longest_text = std::size_t{64} << 20;

  /// Tokens of `utf8`. Fails with `invalid_argument`, naming the byte, if it is not UTF-8 or is longer than
  /// `longest_text`.
  result<std::vector<token_id>> encode(std::string_view utf8, encode_options = {}) const;

  /// Text of the tokens, always valid UTF-8: what a `detokenizer` gives for them. Ids outside the vocabulary are left
  /// out.
  std::string decode(std::span<const token_id>, bool skip_special = false) const;

  std::size_t size() const noexcept { return stages_.tokens->size(); }
  /// The bytes that a token stands for: not always UTF-8 by themselves. Empty for ids outside the vocabulary.
  std::string_view bytes(token_id id) const noexcept { return stages_.tokens->bytes(id); }
  /// The text of a control, unknown or user-defined token as its file has it: what templates call bos_token.
  std::string_view content(token_id id) const noexcept { return stages_.tokens->model_bytes(id); }
  /// Control and unknown tokens: what `skip_special` leaves out.
  bool is_special(token_id id) const noexcept {
    const token_type t = stages_.tokens->type(id);
    return t == token_type::control || t == token_type::unknown;
  }
  /// Tokens after which a model has nothing more to say.
  bool is_end_of_generation(token_id id) const noexcept;
  std::span<const token_id> end_of_generation() const noexcept { return stages_.end_of_generation; }
  /// The token that is found as a whole if `content` stands in a text (`<|im_end|>`), else the token of exactly these
  /// bytes; `no_token` if there is none.
  token_id find(std::string_view content) const noexcept;

  token_id bos() const noexcept { return stages_.bos; }
  token_id eos() const noexcept { return stages_.eos; }
  token_id unknown() const noexcept { return stages_.unknown; }
  token_id pad() const noexcept { return stages_.pad; }
  /// Whether `encode` begins every text with BOS.
  bool adds_bos() const noexcept { return !stages_.prefix.empty() && stages_.prefix.front() == stages_.bos; }
  const decoder& decoding() const noexcept { return stages_.decode; }

 private:
  struct work;
  result<void> encode_text(std::string_view, bool at_start, bool parse_special, work&) const;
  result<void> encode_pieces(std::string_view, bool at_start, work&) const;

  tokenizer_stages stages_;
};

}  // namespace troupe::text
