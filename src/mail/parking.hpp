#pragma once
#include <atomic>
#include <cstdint>

namespace troupe::mail {

/// The two halves of going to sleep without losing a wake, over one word: bit 0 says "the consumer is parked", the rest
/// is an epoch that every send moves on.
///
/// Both halves are read-modify-write operations on the same word, hence totally ordered. Either the consumer's fetch_or
/// comes later than the sender's fetch_add, then it synchronizes with it and the re-check sees the message; or it comes
/// earlier, then the sender sees the bit and wakes. A sender that only *loads* the word has no place in that order: its
/// load may run before its message is visible, and the wake is lost.
///
/// A parameter of `mailbox`, so that tests can step through it and can show what a variant without the re-check loses.
struct parking {
  static constexpr std::uint64_t parked = 1;
  static constexpr std::uint64_t epoch = 2;

  /// Sender, after its message is in the queue. True: the caller has taken the park and owes exactly one wake.
  static bool announce(std::atomic<std::uint64_t>& state) noexcept {
    if (!(state.fetch_add(epoch, std::memory_order_acq_rel) & parked)) return false;
    return unpark(state);
  }

  /// Consumer, with its waker armed. `ready()` re-checks queue and closed flag. True: suspend, exactly one wake comes.
  /// False: do not suspend, no wake comes.
  template <class Ready>
  static bool park(std::atomic<std::uint64_t>& state, Ready&& ready) noexcept {
    state.fetch_or(parked, std::memory_order_acq_rel);
    if (!ready()) return true;
    // A sender may have taken the park in the meantime. Its wake is then on the way, and only suspending consumes it.
    return !unpark(state);
  }

  /// Takes the park; false if somebody else did.
  static bool unpark(std::atomic<std::uint64_t>& state) noexcept {
    return state.fetch_and(~parked, std::memory_order_acq_rel) & parked;
  }
};

}  // namespace troupe::mail
