#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace troupe::gpu {

/// How long the card had nothing to do between steps that were queued while the one before still ran: the last few
/// thousand, in nanoseconds of the card's clock.
class idle_times {
 public:
  /// A step's first and last moment; `queued`: it was on the card's stream before the last one had ended.
  void step(std::uint64_t began, std::uint64_t ended, bool queued) {
    if (queued && last_ended_ && began >= last_ended_) kept_[n_++ % kept_.size()] = began - last_ended_;
    last_ended_ = ended;
  }
  std::uint64_t count() const { return n_; }
  /// Of what is kept; share 0.5: the median. There must be some.
  double microseconds(double share) const {
    std::vector<std::uint64_t> sorted(kept_.begin(), kept_.begin() + static_cast<std::ptrdiff_t>(std::min<std::uint64_t>(n_, kept_.size())));
    std::sort(sorted.begin(), sorted.end());
    return static_cast<double>(sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))]) * 1e-3;
  }

 private:
  std::array<std::uint64_t, 4096> kept_{};
  std::uint64_t n_ = 0, last_ended_ = 0;
};

}  // namespace troupe::gpu
