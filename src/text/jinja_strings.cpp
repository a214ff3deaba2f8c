#include "src/text/jinja_strings.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>

#include "src/text/jinja_unicode.hpp"

namespace troupe::text::jinja {

namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char l = static_cast<char>(c | 0x20);
  return l >= 'a' && l <= 'f' ? l - 'a' + 10 : 99;
}

/// Digits with single underscores between them, underscores removed; empty when malformed.
std::string plain_digits(std::string_view s) {
  std::string out;
  for (std::size_t i = 0; i < s.size(); ++i) {
    if (s[i] == '_') {
      if (i == 0 || i + 1 == s.size() || s[i - 1] == '_') return {};
      if (hex_digit(s[i - 1]) > 35 || hex_digit(s[i + 1]) > 35) return {};
      continue;
    }
    out += s[i];
  }
  return out;
}

}  // namespace

result<std::string> unescape(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (std::size_t i = 0; i < s.size();) {
    if (s[i] != '\\' || i + 1 >= s.size()) {
      out += s[i++];
      continue;
    }
    const char c = s[i + 1];
    i += 2;
    switch (c) {
      case '\n':
        continue;
      case '\\':
      case '\'':
      case '"':
        out += c;
        continue;
      case 'a':
        out += '\a';
        continue;
      case 'b':
        out += '\b';
        continue;
      case 'f':
        out += '\f';
        continue;
      case 'n':
        out += '\n';
        continue;
      case 'r':
        out += '\r';
        continue;
      case 't':
        out += '\t';
        continue;
      case 'v':
        out += '\v';
        continue;
      case 'N':
        return failure(errc::invalid_file, "\\N{...} in a string: write the character itself");
      default:
        break;
    }
    if (c >= '0' && c <= '7') {
      char32_t code = static_cast<char32_t>(c - '0');
      for (int n = 1; n < 3 && i < s.size() && s[i] >= '0' && s[i] <= '7'; ++n) {
        code = code * 8 + static_cast<char32_t>(s[i++] - '0');
      }
      uni::append(out, code);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const std::size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      char32_t code = 0;
      for (std::size_t k = 0; k < n; ++k, ++i) {
        if (i >= s.size() || hex_digit(s[i]) > 15) {
          return failure(errc::invalid_file, fmt::format("a truncated \\{} escape in a string", c));
        }
        code = code * 16 + static_cast<char32_t>(hex_digit(s[i]));
      }
      if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
        return failure(errc::invalid_file, fmt::format("\\{} escape in a string: no character", c));
      }
      uni::append(out, code);
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      // Jinja turns other characters into escapes before it resolves escapes, so that "\é" becomes \xe9 in letters.
      --i;
      const auto code = static_cast<unsigned>(uni::decode(s, i));
      out += code < 0x100     ? fmt::format("\\x{:02x}", code)
             : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
    } else {
      out += '\\';
      out += c;
    }
  }
  return out;
}

double parse_real(std::string_view s) {
  double d = 0;
  const auto r = std::from_chars(s.data(), s.data() + s.size(), d);
  if (r.ec == std::errc::result_out_of_range) {
    // Too large or too small for a double: the sign of the exponent tells which.
    const std::size_t e = s.find_first_of("eE");
    const bool tiny = (e != std::string_view::npos && e + 1 < s.size() && s[e + 1] == '-') || s.substr(0, 2) == "0." ||
                      s.substr(0, 3) == "-0.";
    d = tiny ? 0.0 : std::numeric_limits<double>::infinity();
    if (!s.empty() && s[0] == '-') d = -d;
  }
  return d;
}

std::optional<double> to_real(std::string_view s) {
  s = uni::strip(s);
  bool negative = false;
  if (!s.empty() && (s[0] == '+' || s[0] == '-')) {
    negative = s[0] == '-';
    s.remove_prefix(1);
  }
  const std::string word = uni::lower(s);
  double d = 0;
  if (word == "inf" || word == "infinity") {
    d = std::numeric_limits<double>::infinity();
  } else if (word == "nan") {
    d = std::numeric_limits<double>::quiet_NaN();
  } else {
    std::string digits = plain_digits(s);
    if (digits.empty() || digits.find_first_not_of("0123456789.eE+-") != std::string::npos) return {};
    // "1." and ".5" are numbers in Python; from_chars takes both, but not a lone dot or exponent.
    if (digits.find_first_of("0123456789") > 1 || digits[0] == '+' || digits[0] == '-') return {};
    const auto r = std::from_chars(digits.data(), digits.data() + digits.size(), d);
    if (r.ptr != digits.data() + digits.size() || r.ec == std::errc::invalid_argument) return {};
    d = parse_real(digits);
  }
  return negative ? -d : d;
}

std::optional<std::int64_t> to_integer(std::string_view s, int base) {
  s = uni::strip(s);
  bool negative = false;
  if (!s.empty() && (s[0] == '+' || s[0] == '-')) {
    negative = s[0] == '-';
    s.remove_prefix(1);
  }
  if (s.size() > 2 && s[0] == '0') {
    const char mark = static_cast<char>(s[1] | 0x20);
    const int marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked != 0 && (base == marked || base == 0)) {
      base = marked;
      s.remove_prefix(s[2] == '_' ? 3 : 2);
    }
  }
  if (base == 0) base = 10;
  if (base < 2 || base > 36) return {};
  const std::string digits = (negative ? "-" : "") + plain_digits(s);
  if (digits.size() == (negative ? 1u : 0u) || digits[negative ? 1 : 0] == '-') return {};
  std::int64_t i = 0;
  const auto r = std::from_chars(digits.data(), digits.data() + digits.size(), i, base);
  if (r.ec != std::errc() || r.ptr != digits.data() + digits.size()) return {};
  return i;
}

std::string escape_html(std::string_view s) {
  std::string out;
  out.reserve(s.size());
  for (char c : s) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace troupe::text::jinja
