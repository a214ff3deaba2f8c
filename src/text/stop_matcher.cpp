#include "src/text/stop_matcher.hpp"

#include <algorithm>

namespace troupe::text {

stop_matcher::outcome stop_matcher::append(std::string_view text) {
  if (stops_.empty()) return {std::string(text), std::nullopt};
  const std::size_t before = held_.size();
  held_ += text;

  std::size_t best_end = std::string::npos, best_start = 0, best = 0;
  for (std::size_t i = 0; i < stops_.size(); ++i) {
    const std::string& stop = stops_[i];
    if (stop.empty()) continue;
    // Nothing that lies wholly in the old part can match: it would have been found then.
    const std::size_t from = before >= stop.size() ? before - stop.size() + 1 : 0;
    const std::size_t at = held_.find(stop, from);
    if (at == std::string::npos) continue;
    const std::size_t end = at + stop.size();
    if (best_end == std::string::npos || end < best_end || (end == best_end && at < best_start))
      best_end = end, best_start = at, best = i;
  }
  outcome out;
  if (best_end != std::string::npos) {
    out.text = held_.substr(0, best_start);
    out.match = best;
    held_.clear();
    return out;
  }
  const std::size_t keep = longest_started();
  out.text = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::size_t stop_matcher::longest_started() const {
  std::size_t longest = 0;
  for (const std::string& stop : stops_) {
    if (stop.empty()) continue;
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n)
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) {
        longest = n;
        break;
      }
  }
  return longest;
}

}  // namespace troupe::text
