#pragma once
#include <string>
#include <string_view>

namespace troupe::text {

/// The alphabet in which byte-level BPE vocabularies are written (from GPT-2's encoder): each byte is one printable
/// character, itself where it is printable Latin-1, else U+0100 upwards; a space is U+0120.

/// Appends the bytes that `written` stands for. False if it holds a character outside the alphabet (or is not UTF-8);
/// `out` is then as it was.
bool append_alphabet_bytes(std::string_view written, std::string& out);

/// Appends the characters that stand for `bytes`.
void append_alphabet_text(std::string_view bytes, std::string& out);

}  // namespace troupe::text
