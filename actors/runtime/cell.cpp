#include "actors/runtime/cell.hpp"

#include <array>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <exception>
#include <new>

namespace troupe::runtime {

/// The loop coroutine's type: started and resumed by the cell, suspended at its end, destroyed by the cell.
struct cell_base::routine {
  struct promise_type {
    routine get_return_object() noexcept { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_always initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }  // unreachable: every call in `run` is noexcept
  };
  std::coroutine_handle<> handle;
};

/// What queued handlers and wakers hold on to. Holds the memory of the one resumption that can be under way (a parked
/// cell is woken once, a yielding one is not parked), so that waking allocates nothing.
struct cell_base::anchor : std::enable_shared_from_this<anchor> {
  anchor(cell_base* c, asio::io_context& x) : cell(c), context(x), alarm(x) {}

  cell_base* cell;  // null once the cell is gone; loop's thread only
  asio::io_context& context;
  asio::steady_timer alarm;
  std::optional<time_point> alarm_at;
  alignas(std::max_align_t) std::array<std::byte, 128> slot;
  bool slot_taken = false;

  void post_resume();
  static void wake(void* self) noexcept { static_cast<anchor*>(self)->post_resume(); }
};

struct cell_base::resumption {
  template <class T>
  struct allocator {
    using value_type = T;
    anchor* owner;

    explicit allocator(anchor* a) noexcept : owner(a) {}
    template <class U>
    allocator(const allocator<U>& other) noexcept : owner(other.owner) {}
    T* allocate(std::size_t n) {
      if (n * sizeof(T) > owner->slot.size() || owner->slot_taken) return std::allocator<T>().allocate(n);
      owner->slot_taken = true;
      return reinterpret_cast<T*>(owner->slot.data());
    }
    void deallocate(T* p, std::size_t n) noexcept {
      if (reinterpret_cast<std::byte*>(p) == owner->slot.data())
        owner->slot_taken = false;
      else
        std::allocator<T>().deallocate(p, n);
    }
    template <class U>
    bool operator==(const allocator<U>& other) const noexcept {
      return owner == other.owner;
    }
  };
  using allocator_type = allocator<std::byte>;

  std::shared_ptr<anchor> at;
  allocator_type get_allocator() const noexcept { return allocator_type(at.get()); }
  void operator()() const {
    if (at->cell) at->cell->resume();
  }
};

void cell_base::anchor::post_resume() { asio::post(context, resumption{shared_from_this()}); }

struct cell_base::yield {
  anchor& at;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<>) const noexcept { at.post_resume(); }
  void await_resume() const noexcept {}
};

struct cell_base::idle {
  cell_base& cell;
  bool await_ready() const noexcept { return false; }
  // A wake that comes at once is posted to this very thread, so the coroutine is never resumed before it is suspended.
  bool await_suspend(std::coroutine_handle<>) const noexcept {
    return cell.parked_ = cell.park({&anchor::wake, cell.anchor_.get()});
  }
  void await_resume() const noexcept { cell.parked_ = false; }
};

cell_base::cell_base(loop& on, std::string name)
    : loop_(on), name_(std::move(name)), anchor_(std::make_shared<anchor>(this, on.context())) {}

cell_base::~cell_base() = default;

cell_base::routine cell_base::run() {
  begin();
  std::size_t since_yield = 0;
  for (;;) {
    auto when = deadline();
    const bool due = when && *when <= std::chrono::steady_clock::now();
    const std::size_t n = take_turn(due);
    since_yield += n + due;
    if (n == 0 && drained()) break;
    if (since_yield >= batch_limit) {
      since_yield = 0;
      auto pause = yield{*anchor_};
      co_await pause;
      continue;
    }
    when = deadline();
    if (when) set_alarm(*when);
    auto sleep = idle{*this};
    co_await sleep;
  }
  end();
}

void cell_base::wait_ended() const { loop_.wait_for(*this); }

/// An alarm that is set earlier than needed stays: moving it costs more than one idle turn.
void cell_base::set_alarm(time_point when) {
  if (anchor_->alarm_at && *anchor_->alarm_at <= when) return;
  anchor_->alarm_at = when;
  anchor_->alarm.expires_at(when);  // cancels the later one
  anchor_->alarm.async_wait([at = anchor_](std::error_code error) {
    if (!error && at->cell) at->cell->on_alarm();
  });
}

void cell_base::on_alarm() {
  anchor_->alarm_at.reset();
  // If a sender has taken the park, its wake is queued behind this handler and finds the deadline due.
  if (parked_ && take_back_park()) resume();
}

void cell_base::resume() {
  handle_.resume();
  if (!handle_.done()) return;
  anchor_->alarm.cancel();
  loop_.ended(*this);
}

void cell_base::launch() {
  handle_ = run().handle;
  launched_ = true;
  loop_.add(*this);
  anchor_->post_resume();
}

void cell_base::shut() noexcept {
  if (launched_) {
    if (!ended() && loop_.elsewhere()) {
      close();
      wait_ended();
    }
    loop_.remove(*this);
    if (!ended()) {
      anchor_->alarm.cancel();
      loop_.abandoned();
    }
  }
  disarm();
  anchor_->cell = nullptr;
  if (handle_) handle_.destroy();
}

}  // namespace troupe::runtime
