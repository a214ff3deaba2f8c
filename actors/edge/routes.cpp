#include "actors/edge/routes.hpp"

namespace troupe::edge {
namespace {

struct entry {
  std::string_view path;
  route where;
  bool post;
};

constexpr std::array table = {
    entry{"/v1/chat/completions", route::chat_completions, true},
    entry{"/v1/completions", route::completions, true},
    entry{"/v1/models", route::models, false},
    entry{"/tokenize", route::tokenize, true},
    entry{"/detokenize", route::detokenize, true},
    entry{"/health", route::health, false},
    entry{"/ready", route::ready, false},
    entry{"/metrics", route::metrics, false},
    entry{"/version", route::version, false},
};

constexpr std::string_view model_prefix = "/v1/models/";

int hex(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex(text[i + 1]) >= 0 && hex(text[i + 2]) >= 0) {
      out += static_cast<char>(hex(text[i + 1]) * 16 + hex(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

route_match match(std::string_view target) {
  for (std::string_view scheme : {"http://", "https://"})
    if (target.substr(0, scheme.size()) == scheme) {
      const auto slash = target.find('/', scheme.size());
      target = slash == std::string_view::npos ? std::string_view("/") : target.substr(slash);
    }
  target = target.substr(0, target.find_first_of("?#"));
  for (const entry& e : table)
    if (e.path == target) return {e.where, e.post, {}};
  if (target.size() > model_prefix.size() && target.substr(0, model_prefix.size()) == model_prefix)
    return {route::model, false, percent_decoded(target.substr(model_prefix.size()))};
  return {};
}

std::string_view path_of(route r) noexcept {
  for (const entry& e : table)
    if (e.where == r) return e.path;
  return r == route::model ? "/v1/models/{model}" : "none";
}

std::string_view allowed_methods(const route_match& m) noexcept { return m.post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS"; }

bool is_open(route r, bool open_metrics) noexcept {
  return r == route::health || r == route::ready || (r == route::metrics && open_metrics);
}

}  // namespace troupe::edge
