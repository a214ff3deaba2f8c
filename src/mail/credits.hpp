#pragma once
#include <atomic>
#include <cstdint>

namespace troupe::mail {

/// The bound of a mailbox in one word: messages in use, control messages in use, closed.
///
/// A credit is in use from the moment before its message is enqueued until the consumer has taken the message out.
/// Closing is a bit of the same word, so that "closed and nothing in use" is final: no sender is between its credit and
/// its message, and none will come.
class credits {
 public:
  explicit credits(std::uint32_t limit) noexcept : limit_(limit) {}

  /// Any thread. False: all in use, or closed.
  bool take() noexcept {
    std::uint64_t seen = word_.load(std::memory_order_relaxed);
    do {
      if ((seen & closed_bit) || (seen & normal_mask) >= limit_) return false;
    } while (!word_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_relaxed));
    return true;
  }

  /// Any thread. Reserved credits: only closing refuses them, the protocol between the actors bounds their number.
  bool take_control() noexcept {
    std::uint64_t seen = word_.load(std::memory_order_relaxed);
    do {
      if (seen & closed_bit) return false;
    } while (
        !word_.compare_exchange_weak(seen, seen + control_one, std::memory_order_acq_rel, std::memory_order_relaxed));
    return true;
  }

  void give_back(std::uint32_t normal, std::uint32_t control) noexcept {
    word_.fetch_sub(normal + control * control_one, std::memory_order_acq_rel);
  }

  void close() noexcept { word_.fetch_or(closed_bit, std::memory_order_acq_rel); }

  bool closed() const noexcept { return word_.load(std::memory_order_acquire) & closed_bit; }
  bool drained() const noexcept { return word_.load(std::memory_order_acquire) == closed_bit; }
  std::uint32_t limit() const noexcept { return limit_; }
  /// Messages on their way, control messages included; exact only when nobody sends or receives.
  std::uint32_t in_use() const noexcept {
    const std::uint64_t seen = word_.load(std::memory_order_relaxed);
    return static_cast<std::uint32_t>((seen & normal_mask) + ((seen & ~closed_bit) >> 32));
  }

 private:
  static constexpr std::uint64_t normal_mask = 0xffff'ffff;
  static constexpr std::uint64_t control_one = std::uint64_t{1} << 32;
  static constexpr std::uint64_t closed_bit = std::uint64_t{1} << 63;

  std::atomic<std::uint64_t> word_{0};
  const std::uint32_t limit_;
};

}  // namespace troupe::mail
