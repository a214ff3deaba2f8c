#pragma once
#include <charconv>
#include <concepts>
#include <string>
#include <string_view>

namespace troupe::wire {

/// Appends `text` as a JSON string with its quotes. What is not UTF-8 in it becomes U+FFFD (one per maximal ill-formed
/// part, as Unicode recommends), so that the output is always valid JSON whatever a model's bytes are. Line ends are
/// escaped, so the result is safe inside one `data:` line of an event stream.
void append_string(std::string& out, std::string_view text);

/// Appends `text` without quotes, escaped as in append_string.
void append_escaped(std::string& out, std::string_view text);

template <std::integral Integer>
void append_number(std::string& out, Integer value) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out.append(digits, end);
}

}  // namespace troupe::wire
