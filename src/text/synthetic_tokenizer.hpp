#pragma once
#include <cstdint>
#include <span>

#include "src/base/ids.hpp"
#include "src/text/open_tokenizer.hpp"

namespace troupe::text {

/// A tokenizer of `vocab` tokens for models of random weights, with a minimal chat template. Ids in `eos` are control
/// tokens; the others are, in this order and as far as they reach: the 256 bytes, some common words, all strings of up to three small
/// letters, the same behind a space, and made-up words. So every id has a text of its own, every text can be encoded
/// (a common word takes one token, others about a third of their letters where the vocabulary has 40000 or more), and but for vocabularies too small for
/// the bytes decoding gives the text back. No BOS. Errors: invalid_argument (no vocabulary).
result<opened_text> synthetic_tokenizer(std::uint32_t vocab, std::span<const token_id> eos);

}  // namespace troupe::text
