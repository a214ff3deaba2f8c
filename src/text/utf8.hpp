#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace troupe::text {

inline constexpr std::size_t valid_utf8 = static_cast<std::size_t>(-1);

/// Offset of the first byte that does not begin a well-formed UTF-8 character (no overlong forms, no surrogates,
/// nothing above U+10FFFF), or `valid_utf8`.
std::size_t first_invalid_utf8(std::string_view) noexcept;

/// What stands at the beginning of a byte sequence.
struct utf8_step {
  enum class state : std::uint8_t {
    character,  ///< one character of `size` bytes
    cut_off,    ///< `size` bytes that more bytes could complete to a character
    invalid,  ///< `size` bytes that nothing can complete: the maximal subpart of Unicode §3.9, best practice for U+FFFD
  };
  state what;
  std::uint8_t size;
};
/// Looks at the first character; the text must not be empty.
utf8_step first_utf8(std::string_view) noexcept;

/// Bytes of the character that begins with `lead`, in text that is known to be valid.
constexpr std::size_t utf8_size(char lead) noexcept {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// The code point at the beginning of valid, non-empty text.
char32_t decode_utf8(std::string_view) noexcept;

/// Unicode's White_Space property: what `\s` means to Hugging Face tokenizers.
bool is_white_space(char32_t) noexcept;
/// General category N (Nd, Nl, No): `\p{N}`.
bool is_numeric(char32_t) noexcept;
/// General category Nd: `\d`.
bool is_digit(char32_t) noexcept;
/// Letters, marks, Nd, Nl and connecting punctuation: `\w` (Oniguruma's; close to Alphabetic, M, Nd, Pc).
bool is_word(char32_t) noexcept;

}  // namespace troupe::text
