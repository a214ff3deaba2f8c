#include "actors/edge/edge_thread.hpp"

#include <future>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "actors/edge/session.hpp"
#include "src/base/log.hpp"
#include "src/wire/api_error.hpp"

namespace troupe::edge {

namespace asio = boost::asio;
using asio::ip::tcp;

void shared_state::connection_opened() { connections_.fetch_add(1, std::memory_order_relaxed); }

void shared_state::connection_closed() {
  std::lock_guard lock(mutex_);
  if (connections_.fetch_sub(1, std::memory_order_relaxed) == 1) none_.notify_all();
}

bool shared_state::wait_for_none(std::chrono::steady_clock::time_point until) {
  std::unique_lock lock(mutex_);
  return none_.wait_until(lock, until, [&] { return connections() == 0; });
}

namespace {

sampling_params defaults_of(const model_info& info) {
  sampling_params s;
  info.sampling.apply_to(s);
  return s;
}

}  // namespace

edge_thread::edge_thread(shared_state& s)
    : shared_(s),
      work_(context_.get_executor()),
      listener_(context_),
      accept_pause_(context_),
      parser_({}, defaults_of(s.eng.info())) {}

edge_thread::~edge_thread() {
  if (thread_.joinable()) finish();
}

// Called by engine threads. A post that cannot get memory would leave every stream of this thread without news, and there
// is nobody to tell: noexcept ends the process there rather than hang it.
void edge_thread::wake(void* self) noexcept {
  auto* thread = static_cast<edge_thread*>(self);
  asio::post(thread->context_, [thread] {
    if (thread->port_) thread->port_->poll();
  });
}

void edge_thread::start() {
  port_ = shared_.eng.open_port({&edge_thread::wake, this});
  auto on_end = [](std::exception_ptr) {};
  asio::co_spawn(context_, listen(this), on_end);
  thread_ = std::thread([this] { run(); });
}

void edge_thread::run() {
  for (;;) {
    try {
      context_.run();
      return;
    } catch (const std::exception& e) {
      log().error("edge: a handler failed: {}", e.what());
    }
  }
}

asio::awaitable<void> edge_thread::listen(edge_thread* self) {
  boost::system::error_code ec;
  auto token = asio::redirect_error(asio::use_awaitable, ec);
  while (self->listener_.is_open()) {
    tcp::socket socket = co_await self->listener_.async_accept(token);
    if (!ec) {
      self->accepted(std::move(socket));
      continue;
    }
    if (ec == asio::error::operation_aborted || !self->listener_.is_open()) co_return;
    // Out of descriptors or memory: others must close first. Aborted handshakes come here too, and lose 50 ms.
    self->accept_pause_.expires_after(std::chrono::milliseconds(50));
    co_await self->accept_pause_.async_wait(token);
  }
}

void edge_thread::accepted(tcp::socket socket) {
  boost::system::error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  if (const auto bytes = shared_.options.send_buffer_bytes)
    socket.set_option(asio::socket_base::send_buffer_size(static_cast<int>(bytes)), ignored);
  if (shared_.connections() < shared_.options.max_connections) {
    start_session(*this, std::move(socket));
    return;
  }
  // Said without reading the request: a full server must not wait for a slow client.
  const auto error = wire::http_error(503, "the server holds its limit of connections: try again later", "overloaded");
  std::string body, out;
  wire::append_error(body, error);
  const std::string retry = "Retry-After: " + std::to_string(shared_.options.retry_after.count()) + "\r\n";
  append_head(out, {.status = 503, .content_type = "application/json", .length = body.size(), .keep_alive = false, .extra_headers = retry});
  out += body;
  socket.non_blocking(true, ignored);
  socket.write_some(asio::buffer(out), ignored);
  socket.shutdown(tcp::socket::shutdown_send, ignored);
  shared_.counters.add(route::none, 503);
}

void edge_thread::stop_listening() {
  asio::post(context_, [this] {
    boost::system::error_code ignored;
    listener_.close(ignored);
    accept_pause_.cancel();
    const std::vector<connection*> all(sessions_.begin(), sessions_.end());
    for (connection* c : all) c->drain();
  });
}

void edge_thread::wait_until_idle() {
  std::promise<void> done;
  asio::post(context_, [&done] { done.set_value(); });
  done.get_future().wait();
}

void edge_thread::abort_all() {
  asio::post(context_, [this] {
    const std::vector<connection*> all(sessions_.begin(), sessions_.end());
    for (connection* c : all) c->abort();
  });
}

void edge_thread::finish() {
  asio::post(context_, [this] {
    port_.reset();
    work_.reset();
  });
  thread_.join();
}

}  // namespace troupe::edge
