#pragma once
#include <cstddef>
#include <functional>
#include <utility>

namespace troupe::mail {

/// Owns what an actor has running besides its handlers (timers, sockets), so that nothing is detached. Closing refuses
/// new work, asks each child to stop, and completes when the last one is gone.
/// One thread: all calls come from the owner's loop. (`gate` is the form for several threads.)
class scope {
 public:
  /// A piece of running work. `stop` asks it to end soon, by cancelling what it waits for; it may be gone when `stop`
  /// returns.
  class child {
   public:
    child() = default;
    child(const child&) = delete;
    child& operator=(const child&) = delete;
    virtual void stop() noexcept = 0;

   protected:
    ~child() = default;

   private:
    friend scope;
    child* prev_ = nullptr;
    child* next_ = nullptr;
  };

  scope() = default;
  scope(const scope&) = delete;
  scope& operator=(const scope&) = delete;

  /// False: closed, and `c` must not start.
  bool add(child& c) noexcept {
    if (closed_) return false;
    link(running_, c);
    ++count_;
    return true;
  }
  /// Once per successful `add`. The last one out of a closed scope runs the callback, which may end the scope.
  void remove(child& c) {
    unlink(c);
    if (--count_ == 0 && closed_) finish();
  }

  /// `done` runs when nothing is left, perhaps at once. Closing again only asks again.
  void close(std::function<void()> done = {}) {
    if (!closed_) done_ = std::move(done);
    closed_ = true;
    ++count_;  // holds the scope open while children leave from inside `stop`
    while (child* c = running_) {
      unlink(*c);
      link(stopping_, *c);
      c->stop();
    }
    if (--count_ == 0) finish();
  }

  bool closed() const noexcept { return closed_; }
  std::size_t count() const noexcept { return count_; }

 private:
  void link(child*& head, child& c) noexcept {
    c.prev_ = nullptr;
    c.next_ = head;
    if (head) head->prev_ = &c;
    head = &c;
  }
  void unlink(child& c) noexcept {
    if (c.prev_)
      c.prev_->next_ = c.next_;
    else
      (running_ == &c ? running_ : stopping_) = c.next_;
    if (c.next_) c.next_->prev_ = c.prev_;
  }
  void finish() {
    auto done = std::move(done_);
    done_ = nullptr;
    if (done) done();
  }

  child* running_ = nullptr;
  child* stopping_ = nullptr;
  std::size_t count_ = 0;
  bool closed_ = false;
  std::function<void()> done_;
};

}  // namespace troupe::mail
