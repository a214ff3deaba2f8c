#include "actors/edge/http_text.hpp"

#include <algorithm>
#include <cctype>
#include <random>

#include "src/wire/json_text.hpp"

namespace troupe::edge {

std::string_view status_text(int status) noexcept {
  switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Payload Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    default: return "Unknown";
  }
}

// Not strftime: its names of days and months follow the host program's locale.
std::string http_date(std::time_t t) {
  static constexpr const char* days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  std::tm tm{};
  gmtime_r(&t, &tm);
  const auto two = [](int n) { return std::string{static_cast<char>('0' + n / 10 % 10), static_cast<char>('0' + n % 10)}; };
  return std::string(days[tm.tm_wday]) + ", " + two(tm.tm_mday) + ' ' + months[tm.tm_mon] + ' ' + std::to_string(tm.tm_year + 1900) + ' ' +
         two(tm.tm_hour) + ':' + two(tm.tm_min) + ':' + two(tm.tm_sec) + " GMT";
}

void append_head(std::string& out, const response_head& h) {
  thread_local std::time_t second = 0;
  thread_local std::string date;
  if (const auto now = std::time(nullptr); now != second) second = now, date = http_date(now);

  out += "HTTP/1.1 ";
  wire::append_number(out, h.status);
  out += ' ';
  out += status_text(h.status);
  out += "\r\nServer: troupe\r\nDate: ";
  out += date;
  if (!h.content_type.empty()) {
    out += "\r\nContent-Type: ";
    out += h.content_type;
  }
  if (h.length) {
    out += "\r\nContent-Length: ";
    wire::append_number(out, *h.length);
  } else if (h.chunked) {
    out += "\r\nTransfer-Encoding: chunked";
  }
  if (!h.keep_alive) out += "\r\nConnection: close";
  else if (h.http_minor == 0) out += "\r\nConnection: keep-alive";
  if (!h.request_id.empty()) {
    out += "\r\nX-Request-Id: ";
    out += h.request_id;
  }
  if (!h.cors_origin.empty()) {
    out += "\r\nAccess-Control-Allow-Origin: ";
    out += h.cors_origin;
    if (h.cors_origin != "*") out += "\r\nVary: Origin";
    out += "\r\nAccess-Control-Expose-Headers: X-Request-Id, Retry-After";
  }
  out += "\r\n";
  out += h.extra_headers;
  out += "\r\n";
}

bool is_echoable(std::string_view id) noexcept {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

std::string random_id() {
  thread_local std::mt19937_64 rng{std::random_device{}()};
  constexpr char hex[] = "0123456789abcdef";
  std::string out(24, '0');
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (i % 16 == 0) bits = rng();
    out[i] = hex[bits & 15];
    bits >>= 4;
  }
  return out;
}

bool equal_secret(std::string_view a, std::string_view b) noexcept {
  unsigned char difference = a.size() != b.size();
  for (std::size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i] ^ (b.empty() ? ~a[i] : b[i % b.size()]));
  return difference == 0;
}

namespace {

/// In lower case, without parameters.
std::string media_type(std::string_view type) {
  type = type.substr(0, type.find(';'));
  while (!type.empty() && (type.back() == ' ' || type.back() == '\t')) type.remove_suffix(1);
  std::string lower(type);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

}  // namespace

bool is_json(std::string_view content_type) noexcept {
  const std::string type = media_type(content_type);
  return type == "application/json" || (type.size() > 5 && type.ends_with("+json"));
}

bool is_default_type(std::string_view content_type) noexcept {
  return content_type.empty() || media_type(content_type) == "application/x-www-form-urlencoded";
}

void http_counters::add(route r, int status) noexcept {
  const auto at = std::find(statuses.begin(), statuses.end() - 1, status) - statuses.begin();
  counts_[static_cast<std::size_t>(r)][static_cast<std::size_t>(at)].fetch_add(1, std::memory_order_relaxed);
}

void http_counters::expose(std::string& out, std::size_t connections) const {
  out += "# HELP troupe:http_requests_total Answered HTTP requests by route and status; 499: the client went away first.\n"
         "# TYPE troupe:http_requests_total counter\n";
  for (std::size_t r = 0; r < n_routes; ++r)
    for (std::size_t s = 0; s < statuses.size(); ++s) {
      const auto n = counts_[r][s].load(std::memory_order_relaxed);
      if (n == 0) continue;
      out += "troupe:http_requests_total{route=\"";
      out += path_of(static_cast<route>(r));
      out += "\",code=\"";
      if (statuses[s]) wire::append_number(out, statuses[s]);
      else out += "other";
      out += "\"} ";
      wire::append_number(out, n);
      out += '\n';
    }
  out += "# HELP troupe:http_connections Open connections.\n# TYPE troupe:http_connections gauge\ntroupe:http_connections ";
  wire::append_number(out, connections);
  out += '\n';
}

}  // namespace troupe::edge
