#pragma once
#include <condition_variable>
#include <mutex>
#include <vector>

#include "src/mail/mailbox.hpp"

/// The smallest event loop that a mailbox can wake: a blocking consumer.
class sleeper {
 public:
  troupe::mail::waker waker() noexcept { return {&sleeper::wake, this}; }

  void sleep() {
    std::unique_lock lock(mutex_);
    woken_.wait(lock, [this] { return wakes_ > seen_; });
    ++seen_;
  }
  /// False: no wake came in time.
  template <class Duration>
  bool sleep_for(Duration limit) {
    std::unique_lock lock(mutex_);
    if (!woken_.wait_for(lock, limit, [this] { return wakes_ > seen_; })) return false;
    ++seen_;
    return true;
  }
  std::uint64_t wakes() {
    std::lock_guard lock(mutex_);
    return wakes_;
  }

 private:
  static void wake(void* self) noexcept {
    auto& s = *static_cast<sleeper*>(self);
    std::lock_guard lock(s.mutex_);
    ++s.wakes_;
    s.woken_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable woken_;
  std::uint64_t wakes_ = 0;
  std::uint64_t seen_ = 0;
};

/// Receives until the mailbox is drained and gives each message to `use`. Returns how often it slept.
template <class Mailbox, class Use>
std::uint64_t consume(Mailbox& box, sleeper& sleep, Use&& use) {
  std::vector<typename Mailbox::message_type> batch;
  std::uint64_t slept = 0;
  for (;;) {
    if (box.try_receive(batch, 64) != 0) {
      for (auto& m : batch) use(m);
      batch.clear();
    } else if (box.drained()) {
      return slept;
    } else if (box.park(sleep.waker())) {
      sleep.sleep();
      ++slept;
    }
  }
}
