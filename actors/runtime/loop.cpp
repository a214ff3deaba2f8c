#include "actors/runtime/loop.hpp"

#include <pthread.h>

#include <algorithm>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "actors/runtime/cell.hpp"

namespace troupe::runtime {

struct loop::state {
  explicit state(loop_options o) : options(std::move(o)), own(std::make_unique<asio::io_context>(1)), context(*own) {}
  state(loop_options o, asio::io_context& host) : options(std::move(o)), context(host) {}

  void run();
  static void leave(state*);

  loop_options options;
  std::unique_ptr<asio::io_context> own;  // null: a guest
  asio::io_context& context;
  std::vector<std::function<bool()>> pollers;
  std::thread thread;

  std::mutex mutex;  // guards what follows; never held while an actor runs
  std::condition_variable left;
  std::vector<cell_base*> cells;
  std::size_t live = 0;  // cells that were started and have not ended
  bool stopping = false;
  bool gone = false;  // the thread has left
  // Of an abandoned loop: what its thread frees when it leaves, itself included.
  std::unique_ptr<loop> kept;
  std::shared_ptr<void> kept_cells;
};

void loop::state::run() {
  pthread_setname_np(pthread_self(), options.name.substr(0, 15).c_str());
  const auto guard = asio::make_work_guard(context);
  const auto busy = [this] {
    bool any = false;
    for (auto& poller : pollers) any |= poller();
    return any;
  };
  while (!context.stopped()) {
    try {
      if (pollers.empty()) {
        context.run();
      } else {
        context.run_one();
        while (busy() && !context.stopped()) context.poll_one();
      }
    } catch (...) {
      report(options.on_fault, {options.name, fault::no_message, std::current_exception()});
    }
  }
}

/// The thread's last act. The owner joins it before it frees the state, unless the thread is to free it.
void loop::state::leave(state* s) {
  std::unique_ptr<loop> self;
  std::shared_ptr<void> cells;
  {
    std::lock_guard lock(s->mutex);
    s->gone = true;
    self = std::move(s->kept);
    cells = std::move(s->kept_cells);
  }
  s->left.notify_all();
  cells.reset();  // before the loop that they are on
}

loop::loop(loop_options options) : state_(std::make_unique<state>(std::move(options))) {}
loop::loop(loop_options options, asio::io_context& host) : state_(std::make_unique<state>(std::move(options), host)) {}
loop::~loop() {
  stop();
  join();
}

asio::io_context& loop::context() noexcept { return state_->context; }
const std::string& loop::name() const noexcept { return state_->options.name; }
bool loop::on_thread() const noexcept { return state_->context.get_executor().running_in_this_thread(); }
void loop::post(std::function<void()> work) { asio::post(state_->context, std::move(work)); }
void loop::poll_while(std::function<bool()> busy) { state_->pollers.push_back(std::move(busy)); }

void loop::start() {
  if (!state_->own || state_->thread.joinable() || state_->context.stopped()) return;
  state_->thread = std::thread([s = state_.get()] {
    s->run();
    state::leave(s);
  });
}

void loop::close() noexcept {
  std::lock_guard lock(state_->mutex);
  for (cell_base* cell : state_->cells) cell->close();
}

void loop::stop() noexcept {
  close();
  std::lock_guard lock(state_->mutex);
  state_->stopping = true;
  if (state_->live == 0 && state_->own) state_->context.stop();
}

void loop::halt() noexcept {
  if (state_->own) state_->context.stop();
}

bool loop::join_for(std::chrono::nanoseconds limit) {
  if (!state_->thread.joinable()) return true;
  {
    std::unique_lock lock(state_->mutex);
    if (!state_->left.wait_for(lock, limit, [&] { return state_->gone; })) return false;
  }
  state_->thread.join();
  return true;
}

void loop::join() {
  if (state_->thread.joinable()) state_->thread.join();
}

void loop::abandon(std::unique_ptr<loop> self, std::shared_ptr<void> cells) {
  state& s = *self->state_;
  if (s.thread.joinable()) {
    std::lock_guard lock(s.mutex);
    if (!s.gone) {
      s.thread.detach();
      s.kept_cells = std::move(cells);
      s.kept = std::move(self);
      return;
    }
  }
  self->join();
  cells.reset();
}

void loop::add(cell_base& cell) {
  std::lock_guard lock(state_->mutex);
  state_->cells.push_back(&cell);
  ++state_->live;
  // A cell started on a loop that is stopping takes part in the stop.
  if (state_->stopping) cell.close();
}

void loop::remove(cell_base& cell) noexcept {
  std::lock_guard lock(state_->mutex);
  std::erase(state_->cells, &cell);
}

void loop::ended(cell_base& cell) noexcept {
  std::lock_guard lock(state_->mutex);
  cell.ended_.store(true, std::memory_order_release);  // from here on the cell may be destroyed
  if (--state_->live == 0 && state_->stopping && state_->own) state_->context.stop();
  state_->left.notify_all();
}

void loop::abandoned() noexcept {
  std::lock_guard lock(state_->mutex);
  if (--state_->live == 0 && state_->stopping && state_->own) state_->context.stop();
}

void loop::wait_for(const cell_base& cell) {
  std::unique_lock lock(state_->mutex);
  state_->left.wait(lock, [&] { return cell.ended() || state_->gone; });
}

bool loop::elsewhere() const noexcept { return state_->thread.joinable() && !on_thread(); }

}  // namespace troupe::runtime
