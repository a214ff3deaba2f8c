// Included by asio.hpp and boost_asio.hpp, once per flavour: no include guard. TROUPE_DETAIL_NET names the flavour's
// namespace, TROUPE_DETAIL_FLAVOUR an inner namespace of ours, TROUPE_DETAIL_ERROR the flavour's error code.

#include <deque>
#include <mutex>
#include <unordered_map>

#include <troupe/token_stream.hpp>

namespace troupe::detail::TROUPE_DETAIL_FLAVOUR {

namespace net = ::TROUPE_DETAIL_NET;
using flavour_error = TROUPE_DETAIL_ERROR;
using strand = net::strand<net::any_io_executor>;

/// One engine port of one execution context. The port is touched on the strand only.
class port_cell : public std::enable_shared_from_this<port_cell> {
 public:
  port_cell(engine& e, net::any_io_executor executor)
      : strand_(net::make_strand(std::move(executor))), port_(e.open_port({&port_cell::wake, this})) {}

  const strand& get_strand() const { return strand_; }
  port* get_port() { return port_.get(); }
  void shut() { port_.reset(); }

 private:
  static void wake(void* context) noexcept {
    auto* cell = static_cast<port_cell*>(context);
    // The port's destructor waits for a running waker, so the cell is alive here; the posted call holds it weakly.
    net::post(cell->strand_, [weak = cell->weak_from_this()] {
      if (auto self = weak.lock(); self && self->port_) self->port_->poll();
    });
  }

  strand strand_;
  std::unique_ptr<port> port_;
};

/// The ports of one execution context, by engine. Closing the context closes them.
class port_service : public net::execution_context::service {
 public:
  inline static net::execution_context::id id;
  explicit port_service(net::execution_context& context) : service(context) {}

  std::shared_ptr<port_cell> cell(engine& e, const net::any_io_executor& executor) {
    std::lock_guard lock(mutex_);
    auto& entry = cells_[e.implementation().get()];
    if (entry.alive.expired()) entry = {e.implementation(), std::make_shared<port_cell>(e, executor)};
    return entry.cell;
  }

 private:
  struct entry {
    std::weak_ptr<engine::impl> alive;
    std::shared_ptr<port_cell> cell;
  };
  void shutdown() noexcept override {
    for (auto& [key, e] : cells_)
      if (e.cell) e.cell->shut();
    cells_.clear();
  }
  std::mutex mutex_;
  std::unordered_map<const void*, entry> cells_;
};

inline std::shared_ptr<port_cell> cell_of(engine& e, const net::any_io_executor& executor) {
  auto& context = net::query(executor, net::execution::context);
  return net::use_service<port_service>(context).cell(e, executor);
}

inline net::any_io_executor erase(const auto& executor) {
  if constexpr (std::is_convertible_v<decltype(executor), net::any_io_executor>)
    return executor;
  else
    return net::system_executor();
}

/// A waiting read, whatever its handler's type.
struct read_operation {
  virtual ~read_operation() = default;
  virtual void complete(std::error_code, std::optional<piece>) = 0;
};

template <class Handler>
struct read_operation_of final : read_operation {
  using executor = net::associated_executor_t<Handler>;
  explicit read_operation_of(Handler h) : handler(std::move(h)), work(net::make_work_guard(handler)) {}
  void complete(std::error_code code, std::optional<piece> p) override {
    auto where = work.get_executor();
    net::post(where, [h = std::move(handler), e = flavour_error(code), p = std::move(p)]() mutable {
      std::move(h)(e, std::move(p));
    });
  }
  Handler handler;
  net::executor_work_guard<executor> work;
};

class core final : public stream_core, public std::enable_shared_from_this<core> {
 public:
  explicit core(std::shared_ptr<port_cell> cell) : cell_(std::move(cell)) {}

  // On the strand, from port::poll.
  void on_piece(piece&& p) override {
    if (waiting_)
      deliver(std::move(waiting_), std::move(p));
    else
      pending_.push_back(std::move(p));
  }
  void on_end(completion&& end) override {
    end_ = std::move(end);
    if (waiting_ && pending_.empty()) deliver_end(std::move(waiting_));
  }

  void read(std::unique_ptr<read_operation> operation) {
    net::dispatch(cell_->get_strand(), [self = shared_from_this(), op = std::move(operation)]() mutable {
      if (!self->pending_.empty()) {
        piece p = std::move(self->pending_.front());
        self->pending_.pop_front();
        self->deliver(std::move(op), std::move(p));
      } else if (self->end_) {
        self->deliver_end(std::move(op));
      } else if (!self->cell_->get_port()) {
        op->complete(make_error_code(errc::cancelled), std::nullopt);
      } else {
        self->waiting_ = std::move(op);
      }
    });
  }
  void cancel() override {
    net::dispatch(cell_->get_strand(), [self = shared_from_this()] {
      if (port* p = self->cell_->get_port(); p && !self->end_) p->cancel(self->id);
    });
  }
  void abandon() override {
    // A context that is being destroyed takes no more work; its service closes the port and with it the stream.
    try {
      cancel();
    } catch (...) {
    }
  }
  stream_id id = 0;

 private:
  void deliver(std::unique_ptr<read_operation> op, piece p) {
    if (port* where = cell_->get_port()) where->consumed(id, static_cast<std::uint32_t>(p.tokens.size()));
    op->complete({}, std::move(p));
  }
  void deliver_end(std::unique_ptr<read_operation> op) {
    delivered_end_ = true;
    op->complete(end_->error, std::nullopt);
  }
  std::shared_ptr<port_cell> cell_;
  std::deque<piece> pending_;
  std::unique_ptr<read_operation> waiting_;
};

/// Cancels the stream when the handler's cancellation slot fires.
template <class Handler>
void cancel_with_slot(const Handler& handler, const std::shared_ptr<core>& stream) {
  auto slot = net::get_associated_cancellation_slot(handler);
  if (slot.is_connected())
    slot.assign([weak = std::weak_ptr<core>(stream)](net::cancellation_type) {
      if (auto s = weak.lock()) s->cancel();
    });
}

struct initiate_generate {
  template <class Handler>
  void operator()(Handler&& handler, engine* e, request r) const {
    auto executor = net::get_associated_executor(handler);
    auto cell = cell_of(*e, erase(executor));
    auto stream = std::make_shared<core>(cell);
    cancel_with_slot(handler, stream);
    auto work = net::make_work_guard(executor);
    net::dispatch(cell->get_strand(), [cell, stream, r = std::move(r), work = std::move(work),
                                       h = std::decay_t<Handler>(std::forward<Handler>(handler))]() mutable {
      std::error_code code = errc::draining;
      if (port* p = cell->get_port()) {
        submitted s = p->submit(std::move(r), stream);
        code = s.error;
        stream->id = s.stream;
      }
      auto where = work.get_executor();
      net::post(where, [h = std::move(h), code, stream = std::move(stream)]() mutable {
        token_stream out = code ? token_stream() : token_stream(std::move(stream));
        std::move(h)(flavour_error(code), std::move(out));
      });
    });
  }
};

struct initiate_read {
  template <class Handler>
  void operator()(Handler&& handler, std::shared_ptr<stream_core> stream) const {
    using handler_type = std::decay_t<Handler>;
    auto s = std::static_pointer_cast<core>(std::move(stream));
    cancel_with_slot(handler, s);
    s->read(std::make_unique<read_operation_of<handler_type>>(std::forward<Handler>(handler)));
  }
};

struct initiate_stop {
  template <class Handler>
  void operator()(Handler&& handler, engine* e, std::chrono::milliseconds drain) const {
    auto executor = net::get_associated_executor(handler);
    auto shared = std::make_shared<std::decay_t<Handler>>(std::forward<Handler>(handler));
    e->stop(drain, [shared, work = net::make_work_guard(executor)]() mutable {
      auto where = work.get_executor();
      net::post(where, [shared] { std::move (*shared)(flavour_error()); });
    });
  }
};

}  // namespace troupe::detail::TROUPE_DETAIL_FLAVOUR

namespace troupe {

template <::TROUPE_DETAIL_NET::completion_token_for<void(TROUPE_DETAIL_ERROR, token_stream)> CompletionToken>
auto troupe_async_generate(engine& e, request r, CompletionToken&& token) {
  return ::TROUPE_DETAIL_NET::async_initiate<CompletionToken, void(TROUPE_DETAIL_ERROR, token_stream)>(
      detail::TROUPE_DETAIL_FLAVOUR::initiate_generate{}, token, &e, std::move(r));
}

template <::TROUPE_DETAIL_NET::completion_token_for<void(TROUPE_DETAIL_ERROR, std::optional<piece>)> CompletionToken>
auto troupe_async_read(token_stream& stream, CompletionToken&& token) {
  return ::TROUPE_DETAIL_NET::async_initiate<CompletionToken, void(TROUPE_DETAIL_ERROR, std::optional<piece>)>(
      detail::TROUPE_DETAIL_FLAVOUR::initiate_read{}, token, stream.core());
}

template <::TROUPE_DETAIL_NET::completion_token_for<void(TROUPE_DETAIL_ERROR)> CompletionToken>
auto troupe_async_stop(engine& e, std::chrono::milliseconds drain, CompletionToken&& token) {
  return ::TROUPE_DETAIL_NET::async_initiate<CompletionToken, void(TROUPE_DETAIL_ERROR)>(
      detail::TROUPE_DETAIL_FLAVOUR::initiate_stop{}, token, &e, drain);
}

}  // namespace troupe
