#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/link/messages.hpp"
#include "src/link/socket.hpp"

namespace troupe::link {

struct frame {
  link::kind kind{};
  std::vector<std::byte> bytes;
};

/// Frames out of a stream of bytes, however it comes cut.
class frame_parser {
 public:
  /// Where the next bytes of the stream go, at least one; then `received`.
  std::span<std::byte> room();
  void received(std::size_t n) { end_ += n; }
  /// The next whole frame, or none yet. Errors: invalid_argument, for a length over the limit or a kind that is none.
  result<std::optional<frame>> next();
  void limit(std::size_t frame_bytes) { limit_ = frame_bytes; }

 private:
  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0, end_ = 0, limit_ = limits::frame_bytes;
};

/// One end of a link: frames over a stream socket. One thread at a time receives and one sends; `cut` from any.
class channel {
 public:
  channel() = default;
  /// `far`: what messages call the other side.
  channel(unique_fd fd, std::string far);

  explicit operator bool() const noexcept { return static_cast<bool>(fd_); }
  int fd() const noexcept { return fd_.get(); }
  const std::string& far() const noexcept { return far_; }
  void call_far(std::string name) { far_ = std::move(name); }
  /// Of one received frame; for a side that has not proved who it is.
  void limit(std::size_t frame_bytes) { parser_.limit(frame_bytes); }

  /// Sends or fails, until the deadline. Errors: rank_failed.
  result<void> send(kind, std::span<const std::byte>, time_point deadline);
  /// Keeps the frame and sends what the socket takes, then and at each `flush`, without waiting. Errors: rank_failed.
  result<void> post(kind, std::span<const std::byte>);
  /// True: nothing is left to send.
  result<bool> flush();

  /// The next frame if it is there. Errors: rank_failed: the other side closed, or does not keep to the protocol.
  result<std::optional<frame>> try_receive();
  /// Waits for it. Errors: also rank_failed when the deadline passes.
  result<frame> receive(time_point deadline);
  /// Waits for a message of one kind. What the other side says instead (refused, failed) is the failure's text.
  template <class T>
  result<T> expect(kind k, time_point deadline) {
    auto bytes = expect_bytes(k, deadline);
    if (!bytes) return bytes.take_error();
    auto message = decode<T>(*bytes);
    if (!message) return failure(errc::rank_failed, far_ + ": " + message.error().message);
    return message;
  }

  /// Ends the connection for both sides, whoever waits.
  void cut() noexcept;

 private:
  result<std::vector<std::byte>> expect_bytes(kind, time_point deadline);
  failure lost(const std::string& why) const;

  unique_fd fd_;
  std::string far_;
  frame_parser parser_;
  std::vector<std::byte> pending_;  ///< from sent_ on
  std::size_t sent_ = 0;
};

}  // namespace troupe::link
