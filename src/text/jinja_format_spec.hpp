#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "src/text/jinja_runtime.hpp"

/// Numbers and texts in a given width, precision and base, as Python's format specifications ask for them.
namespace troupe::text::jinja {

constexpr std::int64_t most_precision = 1000;

/// [[fill]align][sign][#][0][width][grouping][.precision][type]
struct specification {
  char32_t fill = ' ';
  char align = '\0';
  char sign = '-';
  bool alternate = false;
  bool zeros = false;
  std::int64_t width = 0;
  char grouping = '\0';
  std::int64_t precision = -1;
  char type = '\0';
};

bool is_one_of(char c, std::string_view set);
/// Reads digits; values beyond 2^30 stop there.
bool read_number(std::string_view s, std::size_t& at, std::int64_t& out);
bool parse_specification(runtime& rt, std::string_view s, specification& out);
/// `prefix` (sign, 0x) stays in front of padding by '='.
std::string padded(const specification& f, char default_align, const std::string& prefix, const std::string& body);
std::string sign_text(const specification& f, bool negative);
std::string format_real(const specification& f, double d);
std::string format_integer(runtime& rt, const specification& f, std::int64_t i);
std::string format_text(runtime& rt, const specification& f, std::string_view s);

}  // namespace troupe::text::jinja
