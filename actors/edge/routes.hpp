#pragma once
#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace troupe::edge {

enum class route { chat_completions, completions, models, model, tokenize, detokenize, health, ready, metrics, version, none };
inline constexpr std::size_t n_routes = 11;

struct route_match {
  route where = route::none;
  bool post = false;       ///< the route's method; GET and HEAD otherwise
  std::string argument;    ///< what follows /v1/models/, percent-decoded
};

/// Finds the route of a request target; query and fragment are ignored, an absolute-form target is cut to its path.
route_match match(std::string_view target);

/// The path of a route as metrics name it.
std::string_view path_of(route) noexcept;
/// The value of the Allow header.
std::string_view allowed_methods(const route_match&) noexcept;
/// Needs no API key.
bool is_open(route, bool open_metrics) noexcept;

}  // namespace troupe::edge
