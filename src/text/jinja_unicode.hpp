#pragma once
#include <cstddef>
#include <string>
#include <string_view>

/// What Python's str knows about characters, for UTF-8 that has been checked. Positions are code points where the name
/// says so and bytes elsewhere.
namespace troupe::text::jinja::uni {

bool valid(std::string_view s);
std::size_t length(std::string_view s);  ///< code points
std::size_t byte_offset(std::string_view s,
                        std::size_t n);                ///< where code point n starts; s.size() when there are fewer
char32_t decode(std::string_view s, std::size_t& at);  ///< reads one code point and moves `at` behind it
char32_t decode_back(std::string_view s, std::size_t& at);  ///< the code point before `at`; moves `at` to its start
void append(std::string& out, char32_t c);

bool is_space(char32_t c);       ///< str.isspace, str.strip and \s of `re`
bool is_line_break(char32_t c);  ///< where str.splitlines splits
bool is_printable(char32_t c);   ///< what repr() leaves as it is
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeric(char32_t c);
bool is_lower(char32_t c);
bool is_upper(char32_t c);
bool is_title(char32_t c);
bool is_identifier_start(char32_t c);
bool is_identifier_part(char32_t c);
bool is_word(char32_t c);  ///< \w of `re`

std::string upper(std::string_view s);
std::string lower(std::string_view s);
std::string title(std::string_view s);       ///< str.title: every run of cased letters
std::string capitalize(std::string_view s);  ///< first character in title case, the rest in lower case
std::string swapcase(std::string_view s);
std::string casefold(std::string_view s);

std::string_view strip_left(std::string_view s);
std::string_view strip_right(std::string_view s);
inline std::string_view strip(std::string_view s) { return strip_left(strip_right(s)); }

}  // namespace troupe::text::jinja::uni
