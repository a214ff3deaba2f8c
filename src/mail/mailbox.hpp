#pragma once
#include <concurrentqueue/concurrentqueue.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "src/mail/credits.hpp"
#include "src/mail/parking.hpp"
#include "src/mail/waker.hpp"

namespace troupe::mail {

namespace detail {

/// g++ 12 destroys aggregate temporaries twice when they are built inside a coroutine's full expression; a constructor
/// or a trivial destructor takes a message out of harm's way.
template <class T>
inline constexpr bool coroutine_safe = !std::is_aggregate_v<T> || std::is_trivially_destructible_v<T>;
template <class T>
inline constexpr bool all_safe = coroutine_safe<T>;
template <class... T>
inline constexpr bool all_safe<std::variant<T...>> = (coroutine_safe<T> && ...);

struct queue_traits : moodycamel::ConcurrentQueueDefaultTraits {
  static constexpr std::size_t INITIAL_IMPLICIT_PRODUCER_HASH_SIZE = 0;  // every sender has a token
};

}  // namespace detail

/// A bounded queue with many senders and one consumer: the only way data moves between actors.
///
/// Order: first in, first out per token. Nothing is promised between two tokens.
/// Bound: `limit` messages; `try_send` fails beyond it and never blocks. Control messages do not count against it.
/// Threads: `try_send`, `send_control`, `close` from any thread, a token from one thread at a time; everything else
/// from the consumer. Tokens end before their mailbox (`sender` keeps both in order). A message that was accepted is
/// received, unless the mailbox itself ends first; closing refuses new ones only.
template <class Message, class Parking = parking>
class mailbox {
  static_assert(detail::all_safe<Message>, "give the message struct a constructor, or make it trivially destructible");
  static_assert(std::is_nothrow_move_constructible_v<Message> && std::is_nothrow_destructible_v<Message>,
                "a message must move without throwing: it changes threads inside the queue");

  struct envelope {
    Message message;
    bool control;
  };
  using queue = moodycamel::ConcurrentQueue<envelope, detail::queue_traits>;

 public:
  using message_type = Message;

  /// One per sender and mailbox.
  class token {
   public:
    explicit token(mailbox& box) : token_(box.queue_) {
      if (!token_.valid()) throw std::bad_alloc();
    }

   private:
    friend mailbox;
    moodycamel::ProducerToken token_;
  };

  /// Memory for `limit` messages is taken here, so that a steady load allocates nothing. A limit of 0 leaves control
  /// messages only.
  explicit mailbox(std::uint32_t limit, std::uint32_t expected_senders = 4)
      : queue_(limit ? limit : 1, expected_senders, 0), reader_(queue_), credits_(limit) {}

  mailbox(const mailbox&) = delete;
  mailbox& operator=(const mailbox&) = delete;

  /// Sends a message (or anything a message can be made of). False: no credit or closed, and `value` is untouched.
  /// Throws std::bad_alloc if the queue cannot grow, and what making the message throws.
  template <class T>
  bool try_send(token& from, T&& value) {
    if (!credits_.take()) return false;
    enqueue(from, std::forward<T>(value), false);
    return true;
  }

  /// For the few messages per request or per life that must get through (cancel, stop): reserved credits, so that a
  /// full mailbox does not refuse them. False: closed, and `value` is untouched.
  template <class T>
  bool send_control(token& from, T&& value) {
    if (!credits_.take_control()) return false;
    enqueue(from, std::forward<T>(value), true);
    return true;
  }

  /// Refuses new messages from now on and wakes the consumer. May be called again.
  void close() noexcept {
    credits_.close();
    announce();
  }

  /// Appends up to `max` messages to `out`, returns how many, and gives their credits back. `out` should have the room.
  std::size_t try_receive(std::vector<Message>& out, std::size_t max) {
    out.reserve(out.size() + max);  // nothing may throw between the queue and `out`
    std::uint32_t control = 0;
    const std::size_t n = queue_.try_dequeue_bulk(reader_, unwrap{&out, &control}, max);
    if (n != 0) credits_.give_back(static_cast<std::uint32_t>(n) - control, control);
    return n;
  }

  /// Arms `w` and parks. True: suspend; `w` is called exactly once, perhaps already. False: a message is there or the
  /// mailbox is drained, go on. A wake may find an empty mailbox; the consumer then parks again, and need not have waited
  /// for the wake of the park before: so `w` is always the same, or `disarm` stands between.
  bool park(waker w) noexcept {
    if (w != waker_) waker_ = w;  // whoever took the last park may be reading it
    const bool suspended = Parking::park(state_, [this] { return queue_.size_approx() != 0 || credits_.drained(); });
    parks_ += suspended;
    return suspended;
  }

  /// Ends the park without a message (a timer went off). False: not parked, or a sender's wake is on the way.
  bool take_back_park() noexcept {
    const bool mine = Parking::unpark(state_);
    parks_ -= mine;
    return mine;
  }

  /// The consumer is going away, parked or not: after this no wake is running and none comes.
  void disarm() noexcept {
    take_back_park();
    while (wakes_.load(std::memory_order_acquire) != parks_) std::this_thread::yield();
  }

  bool closed() const noexcept { return credits_.closed(); }
  /// Closed, and every accepted message has been received: final.
  bool drained() const noexcept { return credits_.drained(); }
  std::uint32_t limit() const noexcept { return credits_.limit(); }
  std::uint32_t in_use() const noexcept { return credits_.in_use(); }

 private:
  /// Output iterator of the bulk dequeue: takes messages out of their envelopes without a second move.
  struct unwrap {
    using iterator_category = std::output_iterator_tag;
    using value_type = void;
    using difference_type = std::ptrdiff_t;
    using pointer = void;
    using reference = void;

    std::vector<Message>* out;
    std::uint32_t* control;

    unwrap& operator*() noexcept { return *this; }
    unwrap& operator++() noexcept { return *this; }
    unwrap operator++(int) noexcept { return *this; }
    unwrap& operator=(envelope&& e) noexcept {
      *control += e.control;
      out->push_back(std::move(e.message));
      return *this;
    }
  };

  /// Gives the credit back unless the message arrived in the queue.
  struct held_credit {
    mailbox* box;
    bool control;
    ~held_credit() {
      if (!box) return;
      box->credits_.give_back(!control, control);
      box->announce();  // a consumer of a closed mailbox may wait for this very credit
    }
  };

  template <class T>
  void enqueue(token& from, T&& value, bool control) {
    held_credit held{this, control};
    if (!queue_.enqueue(from.token_, envelope{Message(std::forward<T>(value)), control})) throw std::bad_alloc();
    held.box = nullptr;
    announce();
  }

  void announce() noexcept {
    if (!Parking::announce(state_)) return;
    waker_();
    wakes_.fetch_add(1, std::memory_order_release);
  }

  static constexpr std::size_t cache_line = 64;

  queue queue_;
  moodycamel::ConsumerToken reader_;  // rotates over the senders, so that a busy one cannot starve the rest
  alignas(cache_line) credits credits_;
  alignas(cache_line) std::atomic<std::uint64_t> state_{0};
  alignas(cache_line) waker waker_;  // written by the consumer while nobody wakes it, read by whoever took the park
  std::atomic<std::uint64_t> wakes_{0};
  std::uint64_t parks_ = 0;  // consumer only
};

/// A sender's end of a mailbox: one token, and a share in the mailbox so that a late send meets "closed" and not a
/// freed queue. Movable, used by one thread at a time; an empty one refuses everything.
template <class Message, class Parking = parking>
class sender {
 public:
  using mailbox_type = mailbox<Message, Parking>;

  sender() = default;
  explicit sender(std::shared_ptr<mailbox_type> box) : box_(std::move(box)) { token_.emplace(*box_); }
  sender(sender&& other) noexcept { swap(other); }
  sender& operator=(sender&& other) noexcept {
    sender moved(std::move(other));
    swap(moved);
    return *this;
  }

  /// As the mailbox's functions of the same names.
  template <class T>
  bool try_send(T&& value) {
    return box_ && box_->try_send(*token_, std::forward<T>(value));
  }
  template <class T>
  bool send_control(T&& value) {
    return box_ && box_->send_control(*token_, std::forward<T>(value));
  }

  /// Another sender to the same mailbox, with its own order.
  sender another() const { return box_ ? sender(box_) : sender(); }
  void close() noexcept {
    if (box_) box_->close();
  }
  bool closed() const noexcept { return !box_ || box_->closed(); }
  explicit operator bool() const noexcept { return box_ != nullptr; }

  void swap(sender& other) noexcept {
    box_.swap(other.box_);
    token_.swap(other.token_);
  }

 private:
  std::shared_ptr<mailbox_type> box_;
  std::optional<typename mailbox_type::token> token_;  // after box_: a token ends before its mailbox
};

}  // namespace troupe::mail
