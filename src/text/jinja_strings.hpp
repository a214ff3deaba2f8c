#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/result.hpp"

/// Small conversions between text and numbers that follow Python.
namespace troupe::text::jinja {

/// The inside of a string literal with its escapes resolved as Python does.
result<std::string> unescape(std::string_view s);

/// A double from text that is known to be a number.
double parse_real(std::string_view s);
/// Python's float(s) and int(s, base): white space around and underscores inside are allowed.
std::optional<double> to_real(std::string_view s);
std::optional<std::int64_t> to_integer(std::string_view s, int base);

/// HTML escaping as markupsafe does it.
std::string escape_html(std::string_view s);

}  // namespace troupe::text::jinja
