#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_set>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>

#include "actors/edge/http_text.hpp"
#include "actors/edge/server.hpp"
#include "src/wire/request_parser.hpp"

namespace troupe::edge {

/// What the threads of a server share.
struct shared_state {
  shared_state(engine& e, server_options o) : eng(e), options(std::move(o)) {}

  engine& eng;
  const server_options options;
  http_counters counters;
  std::atomic<bool> draining{false};
  std::int64_t started = 0;              ///< seconds since 1970; the model's `created`
  boost::asio::thread_pool helper{1};    ///< work on the client's bytes that must not block sockets: tokenize, detokenize

  /// One for each connection, for as long as anything may still touch it.
  void connection_opened();
  void connection_closed();
  std::size_t connections() const noexcept { return connections_.load(std::memory_order_relaxed); }
  /// False: the time passed first.
  bool wait_for_none(std::chrono::steady_clock::time_point until);

 private:
  std::atomic<std::size_t> connections_{0};
  std::mutex mutex_;
  std::condition_variable none_;
};

/// What a thread may ask of its sessions. On the edge thread.
class connection {
 public:
  virtual void drain() = 0;   ///< look at shared_state::draining
  virtual void abort() = 0;   ///< cancel and close now

 protected:
  ~connection() = default;
};

/// Owns: an io_context, a listener, an engine port, the sessions that it accepted. Thread: its own; what `server` calls
/// after `start` may come from any.
/// Invariants: one thread runs the io_context; a session lives on one edge thread; the port outlives its sessions.
class edge_thread {
 public:
  /// `listener` is bound and listening, on this thread's io_context.
  explicit edge_thread(shared_state&);
  ~edge_thread();

  boost::asio::ip::tcp::acceptor& listener() noexcept { return listener_; }
  void start();
  void stop_listening();  ///< and tells the sessions to drain
  void wait_until_idle(); ///< blocks until the thread has come round once
  void abort_all();
  void finish();          ///< no session is left: ends and joins the thread

  // For sessions.
  shared_state& shared() noexcept { return shared_; }
  port& engine_port() noexcept { return *port_; }
  wire::request_parser& parser() noexcept { return parser_; }
  boost::asio::io_context& context() noexcept { return context_; }
  void add(connection* c) { sessions_.insert(c); }
  void remove(connection* c) { sessions_.erase(c); }

 private:
  static boost::asio::awaitable<void> listen(edge_thread* self);
  void accepted(boost::asio::ip::tcp::socket);
  void run();
  static void wake(void* self) noexcept;

  shared_state& shared_;
  boost::asio::io_context context_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  boost::asio::ip::tcp::acceptor listener_;
  boost::asio::steady_timer accept_pause_;
  wire::request_parser parser_;
  std::unordered_set<connection*> sessions_;
  std::unique_ptr<port> port_;
  std::thread thread_;
};

}  // namespace troupe::edge
