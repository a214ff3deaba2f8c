#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace troupe::watch {

/// A number that only grows. Any thread; one relaxed addition, no lock, on a cache line of its own because counters of
/// different actors stand beside each other in engine_metrics.
class alignas(64) counter {
 public:
  void add(std::uint64_t n = 1) noexcept { value_.fetch_add(n, std::memory_order_relaxed); }
  std::uint64_t value() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

/// A number that goes up and down. Any thread may write; the last `set` wins.
class alignas(64) gauge {
 public:
  void set(double v) noexcept { value_.store(v, std::memory_order_relaxed); }
  void add(double v) noexcept { value_.fetch_add(v, std::memory_order_relaxed); }
  double value() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

/// Counts of values by upper bound. Any thread; two relaxed additions and a search over the bounds, no lock, so a scrape
/// may see a sum that is one observation ahead of the counts or behind them.
class histogram {
 public:
  /// `bounds` ascends; a last bucket without bound is added.
  explicit histogram(std::span<const double> bounds)
      : bounds_(bounds.begin(), bounds.end()), counts_(std::make_unique<std::atomic<std::uint64_t>[]>(bounds.size() + 1)) {}

  void observe(double v) noexcept { observe(v, 1); }
  /// `n` observations of the same value: tokens that came out of one step together.
  void observe(double v, std::uint64_t n) noexcept {
    const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), v) - bounds_.begin();
    counts_[static_cast<std::size_t>(at)].fetch_add(n, std::memory_order_relaxed);
    sum_.fetch_add(v * static_cast<double>(n), std::memory_order_relaxed);
  }

  std::span<const double> bounds() const noexcept { return bounds_; }
  /// Observations in bucket i alone, not cumulative; i == bounds().size() is the bucket without bound.
  std::uint64_t count(std::size_t i) const noexcept { return counts_[i].load(std::memory_order_relaxed); }
  std::uint64_t total() const noexcept {
    std::uint64_t n = 0;
    for (std::size_t i = 0; i <= bounds_.size(); ++i) n += count(i);
    return n;
  }
  double sum() const noexcept { return sum_.load(std::memory_order_relaxed); }

 private:
  std::vector<double> bounds_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> counts_;
  std::atomic<double> sum_{0};
};

}  // namespace troupe::watch
