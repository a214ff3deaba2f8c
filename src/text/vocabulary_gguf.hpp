#pragma once
#include "src/format/gguf.hpp"
#include "src/text/vocabulary.hpp"

namespace troupe::text {

/// Reads the `tokenizer.*` metadata of a GGUF file. Tokens and merges of the result are views into the file, which must
/// stay open until a tokenizer was made from it; templates are copies. Fails with `unsupported` for other kinds of
/// tokenizers than "gpt2", "llama" and "gemma4", with `not_found` or `invalid_file` if an entry is missing or
/// malformed.
result<vocabulary> read_vocabulary(const format::gguf_file&);

}  // namespace troupe::text
