#pragma once
// Inside actors/edge only. Beast comes in here: session.cpp and requests.cpp are the two units that pay for it.
#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "actors/edge/answer.hpp"
#include "actors/edge/session.hpp"

namespace troupe::edge {

namespace asio = boost::asio;
namespace http = boost::beast::http;

/// One connection. The main coroutine `run` is the only one that decides and writes; a read is always outstanding, so that
/// a client's leaving is seen while its answer is computed, and every event (bytes, tokens, room to write, a finished
/// helper, drain) sets a flag and calls `notify`. The coroutine looks at the flags, and only when there is nothing to do
/// waits on one timer, which `notify` cancels: one wait for everything, each with a deadline.
/// Owns: the socket, the request being read, the answer being sent. Thread: its edge thread.
/// Invariants: kept alive by its coroutine and the handlers under way; counted in shared_state as long as it lives.
class session final : public connection, public answer_owner, public std::enable_shared_from_this<session> {
 public:
  session(edge_thread&, asio::ip::tcp::socket);
  ~session();

  static asio::awaitable<void> run(std::shared_ptr<session> self);

  void notify() override { timer_.cancel(); }
  void drain() override { notify(); }
  void abort() override;

 private:
  using clock = std::chrono::steady_clock;

  asio::awaitable<void> wait(clock::time_point deadline);
  bool gone() const noexcept { return broken_ || eof_; }

  // Reading.
  std::size_t unread() const noexcept { return input_.size() - input_at_; }
  void pump();
  void on_read(boost::system::error_code, std::size_t n);
  void consume(std::size_t n);
  /// Feeds what has arrived to the parser. False: more must come, or parse_error_ says what is wrong.
  bool feed(bool whole);
  void skip_blank_lines();

  // One connection.
  asio::awaitable<void> serve();
  asio::awaitable<bool> await_request();
  asio::awaitable<bool> read_header();
  asio::awaitable<bool> read_body();
  /// Decides from the header alone.
  std::optional<wire::api_error> judge_header();
  bool authorized() const;
  std::string_view field(http::field) const;
  wire::api_error refusal_of(const boost::system::error_code&) const;
  /// Answers a request that may not have been read to its end; if it was not, the connection ends.
  asio::awaitable<void> refuse(wire::api_error);
  asio::awaitable<void> linger_close();
  void close();

  // Writing.
  /// Sends out_ from the first byte on; false when the client is gone or takes nothing for too long.
  asio::awaitable<bool> flush();
  void wait_for_room();
  response_head head_for(const reply&);
  reply failed(const wire::api_error&) const;
  asio::awaitable<void> send(reply);

  // Requests.
  asio::awaitable<void> handle();
  asio::awaitable<void> complete();
  asio::awaitable<void> send_stream();
  asio::awaitable<void> offload();
  reply simple() const;
  reply no_model(const std::string& name) const;
  /// The work of /metrics, /tokenize and /detokenize; or the refusal.
  std::optional<reply> prepare_job();

  edge_thread& edge_;
  const server_options& options_;
  asio::ip::tcp::socket socket_;
  asio::steady_timer timer_;

  std::array<char, 16384> chunk_;  ///< where the outstanding read writes
  std::string input_;              ///< arrived, from input_at_ on not yet parsed
  std::size_t input_at_ = 0;
  std::string out_;
  std::optional<http::request_parser<http::string_body>> parser_;
  boost::system::error_code parse_error_;

  // The request being answered.
  route_match match_;
  std::string request_id_;
  int minor_ = 1;                  ///< HTTP/1.minor
  bool client_id_ = false;         ///< request_id_ is the client's
  bool head_ = false;
  bool keep_alive_ = true;
  bool expects_continue_ = false;
  std::shared_ptr<answer> answer_;
  std::function<reply()> job_;
  std::optional<reply> job_reply_;

  bool reading_ = false, waiting_for_room_ = false;
  bool discarding_ = false;        ///< what arrives is of no interest any more
  bool refused_ = false;           ///< closing with a request half read
  bool eof_ = false;               ///< the client sends nothing more
  bool broken_ = false;            ///< nothing can be sent any more
};

}  // namespace troupe::edge
