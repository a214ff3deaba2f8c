#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <troupe/engine.hpp>

#include "src/wire/request_parser.hpp"
#include "src/wire/response.hpp"

namespace troupe::edge {

/// Whom an answer tells that it has something new. Called on the port's thread, inside `port::poll`; must only take note.
class answer_owner {
 public:
  virtual void notify() = 0;

 protected:
  ~answer_owner() = default;
};

/// The choices of one completion request on their way from a port to a client: text is formatted as it arrives, so that a
/// writer sends whatever is pending at once. Owned jointly by its session and, through the sinks, by the port: a session
/// that ends early calls `abandon` and needs not wait for the streams' ends.
/// Thread: the port's. Memory: a stream holds at most the tokens that the engine lets it be ahead of `acknowledge`.
class answer : public std::enable_shared_from_this<answer> {
 public:
  answer(wire::api_request, const std::string& id, const std::string& model, std::int64_t created, answer_owner&);

  /// Submits every choice, or none: the first refusal cancels those before it.
  std::optional<wire::api_error> start(port&, std::optional<std::chrono::steady_clock::time_point> deadline);

  /// Cancels what still runs and forgets the owner.
  void abandon();

  bool streams() const noexcept { return request_.stream; }
  /// Something can be told to the client: text, the end, or an error.
  bool begun() const noexcept { return begun_; }
  /// Nothing more will come.
  bool finished() const noexcept { return open_ == 0; }
  /// Why the answer failed as a whole; its other choices are cancelled.
  const std::optional<wire::api_error>& error() const noexcept { return error_; }
  /// It failed before anything was told to the client.
  bool refused() const noexcept { return error_ && events_.empty(); }

  /// Streams: events that are not sent yet. The taker must `acknowledge` once they are in the socket.
  bool pending() const noexcept { return !events_.empty() || unacknowledged_; }
  void take(std::string& out);
  void acknowledge();
  /// A comment for a silent stream. From here on a failure is an event, because the response's head is on its way.
  void ping() {
    wire::append_ping(events_);
    committed_ = true;
  }

  /// Not streamed, finished without error: the whole body.
  void whole(std::string& out) const;

 private:
  struct choice {
    stream_id stream = 0;
    std::string text;             ///< not for streams
    std::uint32_t arrived = 0;    ///< tokens in events_
    std::uint32_t taken = 0;      ///< tokens in what was taken last
    std::optional<completion> end;
  };
  class sink;

  void on_piece(std::size_t index, piece&&);
  void on_end(std::size_t index, completion&&);
  void fail(wire::api_error);
  void cancel_open();
  troupe::usage total() const;

  wire::api_request request_;
  wire::response_writer writer_;
  answer_owner* owner_;
  port* port_ = nullptr;
  std::string id_;
  std::vector<choice> choices_;
  std::size_t open_ = 0;
  bool begun_ = false;
  bool committed_ = false;
  bool unacknowledged_ = false;
  std::string events_;
  std::optional<wire::api_error> error_;
};

}  // namespace troupe::edge
