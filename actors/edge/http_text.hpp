#pragma once
#include <atomic>
#include <array>
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>

#include "actors/edge/routes.hpp"

namespace troupe::edge {

/// An answer that is known as a whole.
struct reply {
  int status = 200;
  std::string body;
  std::string_view content_type = "application/json";
  std::string extra_headers;  ///< whole lines with their line ends
};

struct response_head {
  int status = 200;
  std::string_view content_type;        ///< empty: none
  std::optional<std::size_t> length;    ///< absent: chunked, or until the connection closes when `chunked` is false
  bool chunked = false;
  bool keep_alive = true;
  int http_minor = 1;
  std::string_view request_id;
  std::string_view cors_origin;
  std::string_view extra_headers;
};

void append_head(std::string& out, const response_head&);
std::string_view status_text(int status) noexcept;
/// An IMF-fixdate, as the Date header wants it.
std::string http_date(std::time_t);

/// A request id from the client that can be echoed in a header and a log: 1 to 128 visible ASCII characters.
bool is_echoable(std::string_view id) noexcept;
std::string random_id();
/// Compares in time that depends on the lengths only, so that keys cannot be guessed byte by byte.
bool equal_secret(std::string_view a, std::string_view b) noexcept;
/// application/json, with or without parameters, or a +json type.
bool is_json(std::string_view content_type) noexcept;
/// What programs say that were not told a type: nothing, or the form type of `curl -d`.
bool is_default_type(std::string_view content_type) noexcept;

/// Requests by route and status. Any thread.
class http_counters {
 public:
  void add(route, int status) noexcept;
  /// Appends Prometheus text.
  void expose(std::string& out, std::size_t connections) const;

 private:
  static constexpr std::array statuses{200, 204, 400, 401, 404, 405, 408, 413, 415, 417, 429, 431, 499, 500, 501, 503, 0};  // 0: any other
  std::array<std::array<std::atomic<std::uint64_t>, statuses.size()>, n_routes> counts_{};
};

}  // namespace troupe::edge
