#include "src/text/jinja_date.hpp"

#include <fmt/format.h>

#include "src/text/jinja_unicode.hpp"

namespace troupe::text::jinja {

namespace {

constexpr const char* days[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
constexpr const char* months[] = {"January", "February", "March",     "April",   "May",      "June",
                                  "July",    "August",   "September", "October", "November", "December"};

bool is_leap(int year) { return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0); }

/// Days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms", days_from_civil).
long days_from_epoch(int year, int month, int day) {
  const long y = year - (month <= 2 ? 1 : 0);
  const long era = (y >= 0 ? y : y - 399) / 400;
  const long of_era = y - era * 400;
  const long of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

/// ISO 8601 week and the year it belongs to.
std::pair<int, int> iso_week(const civil_time& t) {
  const int from_monday = (weekday(t) + 6) % 7;
  const int week = (day_of_year(t) - from_monday + 10) / 7;
  auto weeks_in = [](int year) {
    const int new_year = weekday({.year = year});
    return new_year == 4 || (new_year == 3 && is_leap(year)) ? 53 : 52;
  };
  if (week < 1) return {weeks_in(t.year - 1), t.year - 1};
  if (week > weeks_in(t.year)) return {1, t.year + 1};
  return {week, t.year};
}

std::string number(int n, int width, char pad, char flag) {
  if (flag == '-') return std::to_string(n);
  if (flag == '_') pad = ' ';
  if (flag == '0') pad = '0';
  std::string s = std::to_string(n);
  if (static_cast<int>(s.size()) < width) s.insert(0, static_cast<std::size_t>(width) - s.size(), pad);
  return s;
}

std::string conversion(const civil_time& t, char c, char flag) {
  const int hour12 = t.hour % 12 == 0 ? 12 : t.hour % 12;
  auto all = [&](std::string_view format) {
    std::string out;
    for (std::size_t at = 0; at < format.size();) format_time(t, format, at, out);
    return out;
  };
  switch (c) {
    case 'a':
      return std::string(days[weekday(t)], 3);
    case 'A':
      return days[weekday(t)];
    case 'b':
    case 'h':
      return std::string(months[(t.month + 11) % 12], 3);
    case 'B':
      return months[(t.month + 11) % 12];
    case 'c':
      return all("%a %b %e %H:%M:%S %Y");
    case 'C':
      return number(t.year / 100, 2, '0', flag);
    case 'd':
      return number(t.day, 2, '0', flag);
    case 'D':
      return all("%m/%d/%y");
    case 'e':
      return number(t.day, 2, ' ', flag);
    case 'f':
      return "000000";
    case 'F':
      return all("%Y-%m-%d");
    case 'g':
      return number(iso_week(t).second % 100, 2, '0', flag);
    case 'G':
      return number(iso_week(t).second, 1, '0', flag);
    case 'H':
      return number(t.hour, 2, '0', flag);
    case 'I':
      return number(hour12, 2, '0', flag);
    case 'j':
      return number(day_of_year(t) + 1, 3, '0', flag);
    case 'k':
      return number(t.hour, 2, ' ', flag);
    case 'l':
      return number(hour12, 2, ' ', flag);
    case 'm':
      return number(t.month, 2, '0', flag);
    case 'M':
      return number(t.minute, 2, '0', flag);
    case 'n':
      return "\n";
    case 'p':
      return t.hour < 12 ? "AM" : "PM";
    case 'P':
      return t.hour < 12 ? "am" : "pm";
    case 'r':
      return all("%I:%M:%S %p");
    case 'R':
      return all("%H:%M");
    case 's':
      return std::to_string(((days_from_epoch(t.year, t.month, t.day) * 24 + t.hour) * 60 + t.minute) * 60 + t.second);
    case 'S':
      return number(t.second, 2, '0', flag);
    case 't':
      return "\t";
    case 'T':
    case 'X':
      return all("%H:%M:%S");
    case 'u':
      return std::to_string(weekday(t) == 0 ? 7 : weekday(t));
    case 'U':
      return number((day_of_year(t) + 7 - weekday(t)) / 7, 2, '0', flag);
    case 'V':
      return number(iso_week(t).first, 2, '0', flag);
    case 'w':
      return std::to_string(weekday(t));
    case 'W':
      return number((day_of_year(t) + 7 - (weekday(t) + 6) % 7) / 7, 2, '0', flag);
    case 'x':
      return all("%m/%d/%y");
    case 'y':
      return number(t.year % 100, 2, '0', flag);
    case 'Y':
      return std::to_string(t.year);
    case 'z':
    case 'Z':
      return "";
    case '%':
      return "%";
    default:
      return std::string("%") + c;
  }
}

}  // namespace

int weekday(const civil_time& t) {
  const long d = (days_from_epoch(t.year, t.month, t.day) + 4) % 7;
  return static_cast<int>(d < 0 ? d + 7 : d);
}

int day_of_year(const civil_time& t) {
  return static_cast<int>(days_from_epoch(t.year, t.month, t.day) - days_from_epoch(t.year, 1, 1));
}

void format_time(const civil_time& t, std::string_view format, std::size_t& at, std::string& out) {
  if (format[at] != '%' || at + 1 == format.size()) {
    out += format[at++];
    return;
  }
  ++at;
  char flag = '\0';
  if (std::string_view("-_0^").find(format[at]) != std::string_view::npos && at + 1 < format.size())
    flag = format[at++];
  const std::string text = conversion(t, format[at++], flag);
  out += flag == '^' ? uni::upper(text) : text;
}

}  // namespace troupe::text::jinja
