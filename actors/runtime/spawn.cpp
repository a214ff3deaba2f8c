#include "actors/runtime/spawn.hpp"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <memory>
#include <system_error>

namespace troupe::runtime {
namespace {

using clock = std::chrono::steady_clock;

/// A running coroutine as a child of its scope.
struct running final : mail::scope::child {
  running(mail::scope& s, loop& l, fault_handler f) : owner(s), on(l), on_fault(std::move(f)) {}

  void stop() noexcept override { signal.emit(asio::cancellation_type::terminal); }

  void ended(std::exception_ptr error) {
    if (error && !cancelled(error)) report(on_fault, {on.name(), fault::no_message, error});
  }

  bool cancelled(const std::exception_ptr& error) const {
    if (!owner.closed()) return false;
    try {
      std::rethrow_exception(error);
    } catch (const std::system_error& e) {
      return e.code() == asio::error::operation_aborted;
    } catch (...) {
      return false;
    }
  }

  mail::scope& owner;
  loop& on;
  fault_handler on_fault;
  asio::cancellation_signal signal;
};

/// The end of a coroutine. If the io_context is destroyed first this is dropped uncalled, and takes the child along;
/// the scope is then past use.
struct completion {
  std::unique_ptr<running> child;

  void operator()(std::exception_ptr error) {
    child->ended(error);
    const auto last = std::move(child);  // the scope's callback may end the scope, nothing is touched after it
    last->owner.remove(*last);
  }
};

asio::awaitable<void> repeat(clock::duration period, std::function<void()> work, loop* on, fault_handler on_fault) {
  clock::time_point next = clock::now() + period;
  for (;;) {
    auto wait = sleep_until(next);
    const bool on_time = co_await std::move(wait);
    if (!on_time) co_return;
    try {
      work();
    } catch (...) {
      report(on_fault, {on->name(), fault::no_message, std::current_exception()});
    }
    const clock::duration late = clock::now() - next;
    next += period * (1 + late / period);
  }
}

}  // namespace

bool spawn(mail::scope& owner, loop& on, asio::awaitable<void> work, fault_handler on_fault) {
  auto child = std::make_unique<running>(owner, on, std::move(on_fault));
  if (!owner.add(*child)) return false;
  const auto slot = child->signal.slot();
  completion end{std::move(child)};
  auto token = asio::bind_cancellation_slot(slot, std::move(end));
  asio::co_spawn(on.context(), std::move(work), std::move(token));
  return true;
}

asio::awaitable<bool> sleep_until(clock::time_point when) {
  auto executor = co_await asio::this_coro::executor;
  auto state = co_await asio::this_coro::cancellation_state;
  if (state.cancelled() != asio::cancellation_type::none) co_return false;
  asio::steady_timer timer(executor, when);
  std::error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  co_await timer.async_wait(token);
  co_return !error;
}

asio::awaitable<bool> sleep_for(clock::duration time) { return sleep_until(clock::now() + time); }

bool every(mail::scope& owner, loop& on, clock::duration period, std::function<void()> work, fault_handler on_fault) {
  auto routine = repeat(period, std::move(work), &on, on_fault);
  return spawn(owner, on, std::move(routine), std::move(on_fault));
}

}  // namespace troupe::runtime
