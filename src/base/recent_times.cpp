#include "src/base/recent_times.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace troupe {

double recent_times::microseconds(double share) const {
  const auto n = static_cast<std::ptrdiff_t>(std::min<std::uint64_t>(n_, kept_.size()));
  if (n == 0) return 0;
  std::vector<std::uint64_t> sorted(kept_.begin(), kept_.begin() + n);
  std::sort(sorted.begin(), sorted.end());
  const auto rank = static_cast<std::ptrdiff_t>(std::ceil(share * static_cast<double>(n)));
  return static_cast<double>(sorted[static_cast<std::size_t>(std::clamp<std::ptrdiff_t>(rank, 1, n) - 1)]) * 1e-3;
}

std::string recent_times::text() const {
  return fmt::format("{:.1f} us (p50), {:.1f} us (p99)", microseconds(0.5), microseconds(0.99));
}

}  // namespace troupe
