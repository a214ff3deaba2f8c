#pragma once
#include <atomic>

#include <troupe/error.hpp>

namespace troupe::mail {

/// The part of a request record that every actor may look at: has somebody asked for its end, and why. Set once, by
/// whoever comes first. Cancellation travels as this flag, plus a message as a hint, never as an Asio cancellation
/// signal across threads: the hint may overtake the request, the flag cannot.
class cancel_flag {
 public:
  /// Any thread. True if this call set it.
  bool set(errc why = errc::cancelled) noexcept {
    int none = 0;
    return why_.compare_exchange_strong(none, static_cast<int>(why), std::memory_order_acq_rel);
  }
  bool is_set() const noexcept { return why_.load(std::memory_order_acquire) != 0; }
  /// The reason; an empty code if not set.
  std::error_code why() const noexcept {
    const int e = why_.load(std::memory_order_acquire);
    return e ? make_error_code(static_cast<errc>(e)) : std::error_code();
  }

 private:
  std::atomic<int> why_{0};
};

}  // namespace troupe::mail
