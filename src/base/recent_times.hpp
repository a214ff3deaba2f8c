#pragma once
#include <array>
#include <cstdint>
#include <string>

namespace troupe {

/// Of many times, in nanoseconds, the last few hundred: few enough that one kind of load fills them soon. One thread.
class recent_times {
 public:
  void add(std::uint64_t ns) { kept_[n_++ % kept_.size()] = ns; }
  std::uint64_t count() const { return n_; }  ///< of all that were added
  /// What a share of those kept does not exceed, by nearest rank; 0.5: the median. 0 where there are none.
  double microseconds(double share) const;
  std::string text() const;  ///< "12.0 us (p50), 31.5 us (p99)"

 private:
  std::array<std::uint64_t, 512> kept_{};
  std::uint64_t n_ = 0;
};

}  // namespace troupe
