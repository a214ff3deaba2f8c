#pragma once
#include <string>
#include <string_view>

#include "src/text/jinja_runtime.hpp"

namespace troupe::text::jinja {

/// Appends what strftime (C locale, glibc's flags - _ 0 ^) makes of the character or conversion at `at`, and moves on.
/// Time zones are unknown: %Z and %z give nothing.
void format_time(const civil_time& t, std::string_view format, std::size_t& at, std::string& out);

/// Sunday is 0.
int weekday(const civil_time& t);
/// 1 January is 0.
int day_of_year(const civil_time& t);

}  // namespace troupe::text::jinja
