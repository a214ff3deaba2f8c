#include "src/text/jinja_format_spec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "src/text/jinja_repr.hpp"
#include "src/text/jinja_unicode.hpp"

namespace troupe::text::jinja {

bool read_number(std::string_view s, std::size_t& at, std::int64_t& out) {
  const std::size_t start = at;
  std::int64_t n = 0;
  for (; at < s.size() && s[at] >= '0' && s[at] <= '9'; ++at)
    n = std::min<std::int64_t>(n * 10 + (s[at] - '0'), 1 << 30);
  if (at > start) out = n;
  return at > start;
}

bool is_one_of(char c, std::string_view set) { return c != '\0' && set.find(c) != std::string_view::npos; }

bool parse_specification(runtime& rt, std::string_view s, specification& out) {
  std::size_t at = 0;
  auto peek = [&](std::size_t i) { return i < s.size() ? s[i] : '\0'; };
  if (!s.empty()) {
    std::size_t next = 0;
    const char32_t fill = uni::decode(s, next);
    if (is_one_of(peek(next), "<>=^")) {
      out.fill = fill;
      out.align = peek(next);
      at = next + 1;
    } else if (is_one_of(peek(0), "<>=^")) {
      out.align = peek(0);
      at = 1;
    }
  }
  if (is_one_of(peek(at), "+- ")) out.sign = s[at++];
  if (peek(at) == '#') out.alternate = true, ++at;
  if (peek(at) == '0') {
    out.zeros = true;
    if (out.align == '\0') out.align = '=', out.fill = '0';
    ++at;
  }
  read_number(s, at, out.width);
  if (is_one_of(peek(at), ",_")) out.grouping = s[at++];
  if (peek(at) == '.') {
    ++at;
    if (!read_number(s, at, out.precision)) {
      rt.error("a format has no precision behind its dot");
      return false;
    }
  }
  if (at < s.size()) out.type = s[at++];
  if (at != s.size()) {
    rt.error(fmt::format("'{}' is no format specification", s));
    return false;
  }
  if (out.precision > most_precision) {
    rt.error(fmt::format("the precision of a format is at most {}", most_precision));
    return false;
  }
  return rt.may_hold(static_cast<std::uint64_t>(out.width) * 4) && rt.spend(static_cast<std::uint64_t>(out.width)) &&
         rt.step(static_cast<std::uint64_t>(std::max<std::int64_t>(out.precision, 0)));
}

static std::string padding(char32_t fill, std::int64_t n) {
  std::string out;
  for (std::int64_t i = 0; i < n; ++i) uni::append(out, fill);
  return out;
}

std::string padded(const specification& f, char default_align, const std::string& prefix, const std::string& body) {
  const char align = f.align ? f.align : default_align;
  const auto have = static_cast<std::int64_t>(uni::length(prefix) + uni::length(body));
  const std::int64_t n = std::max<std::int64_t>(f.width - have, 0);
  if (align == '<') return prefix + body + padding(f.fill, n);
  if (align == '^') return padding(f.fill, n / 2) + prefix + body + padding(f.fill, n - n / 2);
  if (align == '=') return prefix + padding(f.fill, n) + body;
  return padding(f.fill, n) + prefix + body;
}

static std::string grouped(const std::string& digits, char mark, std::size_t every) {
  if (!mark) return digits;
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i != 0 && (digits.size() - i) % every == 0) out += mark;
    out += digits[i];
  }
  return out;
}

std::string sign_text(const specification& f, bool negative) {
  return negative ? "-" : f.sign == '-' ? "" : std::string(1, f.sign);
}

/// Groups the digits, and zeros that fill the width are grouped with them.
static std::string filled_digits(const specification& f, std::string digits, std::size_t every, std::size_t others) {
  if (f.grouping && f.align == '=' && f.fill == '0') {
    while (grouped(digits, f.grouping, every).size() + others < static_cast<std::size_t>(f.width))
      digits.insert(0, "0");
    std::string out = grouped(digits, f.grouping, every);
    return out;
  }
  return grouped(digits, f.grouping, every);
}

static std::string in_base(std::uint64_t n, unsigned base, bool upper) {
  std::string out;
  do {
    const unsigned d = static_cast<unsigned>(n % base);
    out += static_cast<char>(d < 10 ? '0' + d : (upper ? 'A' : 'a') + d - 10);
    n /= base;
  } while (n != 0);
  std::reverse(out.begin(), out.end());
  return out;
}

static std::string with_printf(const char* pattern, int precision, double d) {
  const int n = std::snprintf(nullptr, 0, pattern, precision, d);
  std::string out(static_cast<std::size_t>(std::max(n, 0)), '\0');
  std::snprintf(out.data(), out.size() + 1, pattern, precision, d);
  return out;
}

/// |d| as Python writes it for a presentation type; the sign is the caller's.
static std::string real_digits(const specification& f, double d) {
  const char type = f.type == 'n' ? 'g' : f.type;
  const bool upper = type == 'E' || type == 'F' || type == 'G';
  std::string out;
  if (std::isinf(d) || std::isnan(d)) {
    out = std::isnan(d) ? "nan" : "inf";
    return upper ? uni::upper(out) : out + (type == '%' ? "%" : "");
  }
  const int precision = f.precision < 0 ? 6 : static_cast<int>(f.precision);
  switch (type) {
    case 'e':
      return with_printf(f.alternate ? "%#.*e" : "%.*e", precision, d);
    case 'E':
      return with_printf(f.alternate ? "%#.*E" : "%.*E", precision, d);
    case 'f':
    case 'F':
      return with_printf(f.alternate ? "%#.*f" : "%.*f", precision, d);
    case '%':
      return with_printf("%.*f", precision, d * 100) + "%";
    case 'g':
      return with_printf(f.alternate ? "%#.*g" : "%.*g", precision, d);
    case 'G':
      return with_printf(f.alternate ? "%#.*G" : "%.*G", precision, d);
    default:
      break;
  }
  if (f.precision < 0) return real_repr(d);
  // Without a type: like g, but a whole number keeps one decimal and the exponent starts one digit sooner.
  out = with_printf("%.*g", std::max(precision, 1), d);
  if (out.find('e') != std::string::npos) return out;
  const std::string whole = with_printf("%.*e", std::max(precision - 1, 0), d);
  const int exponent = std::atoi(whole.c_str() + whole.find('e') + 1);
  if (exponent >= std::max(precision, 1) - 1 && exponent > 0) {
    out = with_printf("%.*e", std::max(precision - 1, 0), d);
    std::string mantissa = out.substr(0, out.find('e'));
    if (mantissa.find('.') != std::string::npos) {
      mantissa.erase(mantissa.find_last_not_of('0') + 1);
      if (mantissa.back() == '.') mantissa.pop_back();
    }
    return mantissa + out.substr(out.find('e'));
  }
  return out.find('.') == std::string::npos ? out + ".0" : out;
}

std::string format_real(const specification& f, double d) {
  std::string digits = real_digits(f, std::fabs(d));
  const std::string sign = sign_text(f, std::signbit(d) && !std::isnan(d));
  std::size_t whole = 0;
  while (whole < digits.size() && digits[whole] >= '0' && digits[whole] <= '9') ++whole;
  const std::string rest = digits.substr(whole);
  return padded(f, '>', sign, filled_digits(f, digits.substr(0, whole), 3, sign.size() + rest.size()) + rest);
}

std::string format_integer(runtime& rt, const specification& f, std::int64_t i) {
  if (f.type == 'c') {
    if (i < 0 || i > 0x10FFFF || (i >= 0xD800 && i < 0xE000)) return rt.error("%c wants the number of a character"), "";
    std::string c;
    uni::append(c, static_cast<char32_t>(i));
    return padded(f, '<', "", c);
  }
  const auto magnitude = i < 0 ? 0 - static_cast<std::uint64_t>(i) : static_cast<std::uint64_t>(i);
  unsigned base = 10;
  if (f.type == 'b') base = 2;
  if (f.type == 'o') base = 8;
  if (f.type == 'x' || f.type == 'X') base = 16;
  std::string prefix = sign_text(f, i < 0);
  if (f.alternate && base != 10) prefix += std::string("0") + f.type;
  return padded(f, '>', prefix,
                filled_digits(f, in_base(magnitude, base, f.type == 'X'), base == 10 ? 3 : 4, prefix.size()));
}

std::string format_text(runtime& rt, const specification& f, std::string_view s) {
  if (f.align == '=' && !f.zeros) return rt.error("'=' alignment is not allowed for strings"), "";
  specification g = f;
  if (g.align == '=') g.align = '<';
  if (f.precision >= 0) s = s.substr(0, uni::byte_offset(s, static_cast<std::size_t>(f.precision)));
  return padded(g, '<', "", std::string(s));
}

}  // namespace troupe::text::jinja
