#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <troupe/engine.hpp>

namespace troupe::edge {

/// How the server listens and what it puts up with. All limits hold per connection unless said otherwise.
struct server_options {
  std::string host = "127.0.0.1";          ///< an address, or a name that resolves to one
  std::uint16_t port = 8080;               ///< 0: the system chooses, see server::port
  std::uint32_t threads = 1;               ///< each with its own listener, sessions and engine port
  std::vector<std::string> api_keys;       ///< any of them in `Authorization: Bearer KEY`; empty: open to all
  bool open_metrics = false;               ///< /metrics needs no key; /health and /ready never do
  std::string cors_origin;                 ///< value of Access-Control-Allow-Origin; empty: browsers stay out
  std::string version = "0.1.0";           ///< what /version says

  std::uint32_t max_connections = 1024;    ///< of all threads together; more are answered 503 and closed
  std::size_t max_header_bytes = 16 << 10; ///< 431 above
  std::size_t max_body_bytes = 8 << 20;    ///< 413 above
  std::uint32_t send_buffer_bytes = 256 << 10;  ///< of the socket: what a slow reader may be behind without being noticed; 0: the system's

  std::chrono::milliseconds header_timeout{10'000};  ///< from a request's first byte to the end of its header; 408
  std::chrono::milliseconds body_timeout{60'000};    ///< from there to the end of its body; 408
  std::chrono::milliseconds idle_timeout{75'000};    ///< between requests; closes without a word
  std::chrono::milliseconds write_timeout{60'000};   ///< without the reader taking a byte; cancels and closes
  std::chrono::milliseconds ping_interval{15'000};   ///< of silence in an event stream before a comment is sent
  std::chrono::milliseconds request_timeout{0};      ///< the engine's deadline for each request; 0: none
  std::chrono::seconds retry_after{1};               ///< what 429 and 503 tell the client
};

/// OpenAI-shaped HTTP over one engine: chat completions, completions, models, tokenize, detokenize, health, ready, metrics,
/// version. HTTP/1.1 with keep-alive and pipelining; server-sent events for streams. A client that goes away cancels what
/// it asked for. Uses nothing of the engine but its public API; installs no signal handlers and prints nothing.
///
/// Thread-safe, except that `start` comes first and `stop` is for one thread. The engine must outlive the server.
class server {
 public:
  server(engine&, server_options);
  /// As `stop` with no time to drain.
  ~server();
  server(const server&) = delete;
  server& operator=(const server&) = delete;

  /// Binds and starts the threads. Throws troupe::error (io_failed: the address is in use or not ours).
  void start();
  /// The bound port; 0 before `start`.
  std::uint16_t port() const noexcept;

  /// Does not block: listeners close, /ready says 503, sessions without a request in progress close, the others close
  /// after their current response.
  void drain();
  /// `drain`, then waits at most `limit` for the sessions, cancels and closes what is left and joins the threads.
  void stop(std::chrono::milliseconds limit);

  std::size_t connections() const noexcept;

 private:
  class impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace troupe::edge
