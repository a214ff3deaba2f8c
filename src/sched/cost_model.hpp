#pragma once
#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <utility>

namespace troupe::sched {

/// What the device time of a step depends on.
struct step_shape {
  double tokens = 0;
  double work = 0;  ///< sum over the tokens of the positions each one attends to

  void add(std::uint32_t position, std::uint32_t n_tokens) {
    const double n = n_tokens;
    tokens += n;
    work += n * position + n * (n + 1) / 2;
  }
};

/// Device time of a step, fitted to the steps seen: a + b * tokens + c * work, all coefficients >= 0. Steps are
/// averaged per bucket of similar shape and the fit weighs each bucket alike and by relative error, so that thousands
/// of equal decode steps do not drown the few large prefills, and a change of clock speed is forgotten in a few steps.
class cost_model {
 public:
  void observe(step_shape, double ns);

  bool calibrated() const { return !buckets_.empty(); }
  double predict(step_shape) const;  ///< ns; 0 before the first observation
  double fixed() const { return coefficient_[0]; }
  double per_token() const { return coefficient_[1]; }
  double per_work() const { return coefficient_[2]; }

  /// The largest chunk that starts at `position` and adds at most `ns` to a step; unlimited before the first
  /// observation. Never more than growth times the largest step seen: a device that was not yet kept busy shows no cost
  /// per token, and the line must not be believed far beyond its points.
  std::uint32_t largest_chunk(std::uint32_t position, double ns) const;

  static constexpr double growth = 4;
  static constexpr std::uint32_t unlimited = std::numeric_limits<std::uint32_t>::max();

 private:
  struct bucket {
    double n = 0, tokens = 0, work = 0, ns = 0;
  };
  void fit();

  std::map<std::pair<int, int>, bucket> buckets_;  ///< by log2 of tokens and of work per token
  std::array<double, 3> coefficient_{};
  double max_tokens_ = 0;
};

}  // namespace troupe::sched
