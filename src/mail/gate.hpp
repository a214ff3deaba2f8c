#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>

namespace troupe::mail {

/// Counts what is under way across threads; once closed it lets nobody in, and calls back when the last has left.
class gate {
 public:
  /// Holds the gate open for one piece of work.
  class pass {
   public:
    pass() = default;
    pass(pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    pass& operator=(pass&& other) noexcept {
      pass moved(std::move(other));
      std::swap(gate_, moved.gate_);
      return *this;
    }
    ~pass() {
      if (gate_) gate_->leave();
    }
    explicit operator bool() const noexcept { return gate_ != nullptr; }

   private:
    friend gate;
    explicit pass(gate* g) noexcept : gate_(g) {}
    gate* gate_ = nullptr;
  };

  gate() = default;
  gate(const gate&) = delete;
  gate& operator=(const gate&) = delete;

  /// Any thread. False: closed.
  bool enter() noexcept {
    std::uint64_t seen = word_.load(std::memory_order_relaxed);
    do {
      if (seen & closed_bit) return false;
    } while (!word_.compare_exchange_weak(seen, seen + one, std::memory_order_acq_rel, std::memory_order_relaxed));
    return true;
  }
  /// Any thread, once per successful `enter`. The last one out of a closed gate runs the callback.
  void leave() {
    if (word_.fetch_sub(one, std::memory_order_acq_rel) == (one | closed_bit)) finish();
  }
  /// `enter` and `leave` as a value; empty if closed.
  pass try_pass() noexcept { return enter() ? pass(this) : pass(); }

  /// Any thread. `done` runs exactly once, on the thread that brings the count to zero, perhaps at once; it may end the
  /// gate. False: closed before, and `done` is dropped.
  bool close(std::function<void()> done = {}) {
    if (closing_.test_and_set(std::memory_order_acq_rel)) return false;
    done_ = std::move(done);
    if (word_.fetch_or(closed_bit, std::memory_order_acq_rel) == 0) finish();
    return true;
  }

  bool closed() const noexcept { return word_.load(std::memory_order_acquire) & closed_bit; }
  std::uint64_t count() const noexcept { return word_.load(std::memory_order_acquire) >> 1; }

 private:
  static constexpr std::uint64_t closed_bit = 1;
  static constexpr std::uint64_t one = 2;

  void finish() {
    auto done = std::move(done_);  // a local: the callback may end the gate
    if (done) done();
  }

  std::atomic<std::uint64_t> word_{0};
  std::atomic_flag closing_ = ATOMIC_FLAG_INIT;
  std::function<void()> done_;
};

}  // namespace troupe::mail
