#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace troupe::runtime {

/// How one thread shows another that it gets on: a counter and a busy flag. It reads no clock; the supervisor, which
/// has one, calls it overdue when it has been busy at the same count for longer than `limit`.
/// Threads: `work` and `beat` from the watched one, the rest from any.
class watchdog {
 public:
  /// Busy while it lives.
  class working {
   public:
    explicit working(watchdog& w) noexcept : dog_(&w) { dog_->set(true); }
    working(working&& other) noexcept : dog_(std::exchange(other.dog_, nullptr)) {}
    working& operator=(working&&) = delete;
    ~working() {
      if (dog_) dog_->set(false);
    }

   private:
    watchdog* dog_;
  };

  struct reading {
    std::uint64_t count;
    bool busy;
  };

  watchdog(std::string name, std::chrono::steady_clock::duration limit) : name_(std::move(name)), limit_(limit) {}

  working work() noexcept { return working(*this); }
  /// Progress inside a long piece of work.
  void beat() noexcept { word_.fetch_add(2, std::memory_order_release); }

  reading read() const noexcept {
    const std::uint64_t word = word_.load(std::memory_order_acquire);
    return {word >> 1, (word & 1) != 0};
  }
  const std::string& name() const noexcept { return name_; }
  std::chrono::steady_clock::duration limit() const noexcept { return limit_; }

 private:
  // One word for both, so that a reading is of one moment. Written by the watched thread only.
  void set(bool busy) noexcept {
    const std::uint64_t word = word_.load(std::memory_order_relaxed);
    word_.store((((word >> 1) + 1) << 1) | busy, std::memory_order_release);
  }

  const std::string name_;
  const std::chrono::steady_clock::duration limit_;
  std::atomic<std::uint64_t> word_{0};
};

}  // namespace troupe::runtime
