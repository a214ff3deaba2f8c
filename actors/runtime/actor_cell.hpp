#pragma once
#include <concepts>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "actors/runtime/cell.hpp"
#include "src/mail/mailbox.hpp"

namespace troupe::runtime {

/// An actor's deadline has come.
struct tick {
  time_point now;
};

struct cell_options {
  std::string name;
  std::uint32_t credits = 1024;        ///< messages that may wait, control messages not counted
  std::uint32_t expected_senders = 4;  ///< for which memory is planned; more are possible
  fault_handler on_fault;              ///< exceptions out of the actor's code; empty: they are logged
};

/// Runs an actor: owns its mailbox, the actor value, its outbox and the loop coroutine, which takes at most 64
/// messages, hands each to the actor, lets the actor settle, flushes the outbox, and then lets timers and sockets run.
///
/// Owns: mailbox, actor, outbox. Thread: the actor's functions run on the loop's thread only; constructor, `start` and
/// destructor run on the owner's; `make_sender` and `close` on any. Invariants: messages of one sender are handled in
/// order; an exception out of a handler costs that message only; a message accepted by the mailbox is handled unless
/// the loop is halted.
///
/// An actor is a plain class:
///
///     class counter {
///      public:
///       using message = std::variant<add, read>;   // structs with a constructor, or trivially destructible
///       using outbox = ...;                        // any type: a struct of senders here, a recorder in tests
///       void on(const add&, outbox&);              // one per alternative; may also take the message by &&
///       void on(const read&, outbox&);
///     };
///
/// It may also have, each called on the loop's thread:
///
///     void begin(outbox&);                                       // before the first message
///     void settle(outbox&);                                      // after each batch of messages or tick
///     std::optional<time_point> next_deadline() const;           // asked after each batch
///     void on(tick, outbox&);                                    // when that deadline has come; with the former
///     bool done() const;                                         // asked after each batch; true closes the mailbox
///     void failed(message&, std::exception_ptr, outbox&);        // its handler threw; the message may be moved from
///     void end(outbox&);                                         // after the last message
///
/// and its outbox `void flush()`, called after `settle`.
///
/// The destructor waits for the actor if its loop still runs; a cell on a guest loop is destroyed on that loop's
/// thread, or when nothing runs it any more.
template <class Actor>
class actor_cell final : public cell_base {
 public:
  using message = typename Actor::message;
  using outbox = typename Actor::outbox;
  using mailbox = mail::mailbox<message>;

  actor_cell(loop& on, cell_options options)
      : cell_base(on, std::move(options.name)),
        on_fault_(std::move(options.on_fault)),
        inbox_(std::make_shared<mailbox>(options.credits, options.expected_senders)) {
    batch_.reserve(batch_limit);
  }
  ~actor_cell() override { shut(); }

  /// A new sender to this actor. Messages may be sent before `start`; they wait.
  mail::sender<message> make_sender() const { return mail::sender<message>(inbox_); }

  /// Makes the actor from `args` and sets it running. Once.
  template <class... Args>
  void start(outbox out, Args&&... args) {
    outbox_.emplace(std::move(out));
    actor_.emplace(std::forward<Args>(args)...);
    launch();
  }

  void close() noexcept override { inbox_->close(); }

  /// The actor, for looking at it when nothing runs it.
  Actor& actor() noexcept { return *actor_; }
  outbox& out() noexcept { return *outbox_; }
  const mailbox& inbox() const noexcept { return *inbox_; }

 private:
  template <class F>
  bool guarded(std::size_t index, F&& f) noexcept {
    try {
      f();
      return true;
    } catch (...) {
      report(on_fault_, {name(), index, std::current_exception()});
      return false;
    }
  }

  template <class Message>
  void deliver(Message& m) {
    actor_->on(std::move(m), *outbox_);
  }
  template <class... T>
  void deliver(std::variant<T...>& m) {
    std::visit([this](auto& alternative) { actor_->on(std::move(alternative), *outbox_); }, m);
  }

  void handle(message& m) noexcept {
    std::size_t index = 0;
    if constexpr (requires { m.index(); }) index = m.index();
    if constexpr (requires { actor_->failed(m, std::exception_ptr(), *outbox_); }) {
      std::exception_ptr error;
      guarded(index, [&] {
        try {
          deliver(m);
        } catch (...) {
          error = std::current_exception();
          throw;
        }
      });
      if (error) guarded(index, [&] { actor_->failed(m, error, *outbox_); });
    } else {
      guarded(index, [&] { deliver(m); });
    }
  }

  std::size_t take_turn(bool due) noexcept override {
    std::size_t n = 0;
    guarded(fault::no_message, [&] { n = inbox_->try_receive(batch_, batch_limit); });
    for (message& m : batch_) handle(m);
    batch_.clear();
    if constexpr (has_deadline) {
      if (due) guarded(fault::no_message, [&] { actor_->on(tick{std::chrono::steady_clock::now()}, *outbox_); });
    }
    if (n == 0 && !due) return 0;
    if constexpr (requires { actor_->settle(*outbox_); }) {
      guarded(fault::no_message, [&] { actor_->settle(*outbox_); });
    }
    flush();
    if constexpr (requires {
                    { actor_->done() } -> std::convertible_to<bool>;
                  }) {
      bool done = false;
      guarded(fault::no_message, [&] { done = actor_->done(); });
      if (done) close();
    }
    return n;
  }

  void flush() noexcept {
    if constexpr (requires { outbox_->flush(); }) guarded(fault::no_message, [&] { outbox_->flush(); });
  }

  std::optional<time_point> deadline() noexcept override {
    std::optional<time_point> when;
    if constexpr (has_deadline) guarded(fault::no_message, [&] { when = actor_->next_deadline(); });
    return when;
  }
  void begin() noexcept override {
    if constexpr (requires { actor_->begin(*outbox_); }) {
      guarded(fault::no_message, [&] { actor_->begin(*outbox_); });
      flush();
    }
  }
  void end() noexcept override {
    if constexpr (requires { actor_->end(*outbox_); }) {
      guarded(fault::no_message, [&] { actor_->end(*outbox_); });
      flush();
    }
  }

  bool drained() const noexcept override { return inbox_->drained(); }
  bool park(mail::waker w) noexcept override { return inbox_->park(w); }
  bool take_back_park() noexcept override { return inbox_->take_back_park(); }
  void disarm() noexcept override { inbox_->disarm(); }

  static constexpr bool has_deadline = requires(const Actor& a) {
    { a.next_deadline() } -> std::convertible_to<std::optional<time_point>>;
  };

  fault_handler on_fault_;
  std::shared_ptr<mailbox> inbox_;
  std::vector<message> batch_;
  std::optional<outbox> outbox_;
  std::optional<Actor> actor_;
};

}  // namespace troupe::runtime
