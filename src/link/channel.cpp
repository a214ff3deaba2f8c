#include "src/link/channel.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace troupe::link {
namespace {

constexpr std::size_t header_bytes = 8, first_room = 16 << 10;

const char* name_of(kind k) {
  switch (k) {
    case kind::challenge:
      return "challenge";
    case kind::greeting:
      return "greeting";
    case kind::hello:
      return "hello";
    case kind::refused:
      return "refused";
    case kind::offer:
      return "offer";
    case kind::go:
      return "go";
    case kind::ready:
      return "ready";
    case kind::plan:
      return "plan";
    case kind::done:
      return "done";
    case kind::failed:
      return "failed";
    case kind::stop:
      return "stop";
  }
  return "unknown message";
}

}  // namespace

std::span<std::byte> frame_parser::room() {
  if (begin_ == end_) begin_ = end_ = 0;
  if (begin_ > 0 && end_ == buffer_.size()) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  // Grows with what has come, not with what a header says is to come.
  if (end_ == buffer_.size()) buffer_.resize(std::max(first_room, buffer_.size() * 2));
  return std::span(buffer_).subspan(end_);
}

result<std::optional<frame>> frame_parser::next() {
  const std::size_t n = end_ - begin_;
  if (n < header_bytes) return std::optional<frame>();
  std::uint32_t length = 0;
  kind k{};
  std::memcpy(&length, buffer_.data() + begin_, sizeof length);
  std::memcpy(&k, buffer_.data() + begin_ + sizeof length, sizeof k);
  if (k < kind::challenge || k > kind::stop) return failure(errc::invalid_argument, "sent what is no frame of a link");
  if (length > limit_)
    return failure(errc::invalid_argument, "sent a frame of " + std::to_string(length) + " bytes, where at most " +
                                               std::to_string(limit_) + " are taken");
  if (n - header_bytes < length) return std::optional<frame>();
  const auto at = buffer_.begin() + static_cast<std::ptrdiff_t>(begin_ + header_bytes);
  begin_ += header_bytes + length;
  return std::optional(frame{k, {at, at + length}});
}

channel::channel(unique_fd fd, std::string far) : fd_(std::move(fd)), far_(std::move(far)) { tune(fd_.get()); }

failure channel::lost(const std::string& why) const { return {errc::rank_failed, far_ + ": " + why}; }

result<void> channel::post(kind k, std::span<const std::byte> bytes) {
  if (bytes.size() > limits::frame_bytes)
    return lost("a message of " + std::to_string(bytes.size()) + " bytes is too long");
  if (sent_ == pending_.size()) pending_.clear(), sent_ = 0;
  const std::size_t at = pending_.size();
  const auto length = static_cast<std::uint32_t>(bytes.size());
  pending_.resize(at + header_bytes + bytes.size());
  std::memcpy(pending_.data() + at, &length, sizeof length);
  std::memcpy(pending_.data() + at + sizeof length, &k, sizeof k);
  if (length) std::memcpy(pending_.data() + at + header_bytes, bytes.data(), bytes.size());
  if (auto sent = flush(); !sent) return sent.take_error();
  return {};
}

result<bool> channel::flush() {
  while (sent_ < pending_.size()) {
    const ssize_t n = ::send(fd_.get(), pending_.data() + sent_, pending_.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0)
      sent_ += static_cast<std::size_t>(n);
    else if (errno == EAGAIN || errno == EWOULDBLOCK)
      return false;
    else if (errno == EPIPE || errno == ECONNRESET)
      return lost("the connection closed");
    else if (errno != EINTR)
      return lost("sending failed: " + std::generic_category().message(errno));
  }
  return true;
}

result<void> channel::send(kind k, std::span<const std::byte> bytes, time_point deadline) {
  if (auto posted = post(k, bytes); !posted) return posted;
  for (;;) {
    auto all = flush();
    if (!all) return all.take_error();
    if (*all) return {};
    if (!wait_for(fd_.get(), POLLOUT, deadline)) return lost("it takes no more messages");
  }
}

result<std::optional<frame>> channel::try_receive() {
  for (;;) {
    auto whole = parser_.next();
    if (!whole) return lost(whole.error().message);
    if (*whole) return whole;
    const auto room = parser_.room();
    const ssize_t n = ::recv(fd_.get(), room.data(), room.size(), MSG_DONTWAIT);
    if (n > 0)
      parser_.received(static_cast<std::size_t>(n));
    else if (n == 0 || errno == ECONNRESET)
      return lost("the connection closed");
    else if (errno == EAGAIN || errno == EWOULDBLOCK)
      return std::optional<frame>();
    else if (errno != EINTR)
      return lost("receiving failed: " + std::generic_category().message(errno));
  }
}

result<frame> channel::receive(time_point deadline) {
  for (;;) {
    auto got = try_receive();
    if (!got) return got.take_error();
    if (*got) return std::move(**got);
    if (!wait_for(fd_.get(), POLLIN, deadline)) return lost("it has not answered in time");
  }
}

result<std::vector<std::byte>> channel::expect_bytes(kind k, time_point deadline) {
  auto got = receive(deadline);
  if (!got) return got.take_error();
  if (got->kind == k) return std::move(got->bytes);
  if (got->kind == kind::refused || got->kind == kind::failed) {
    auto said = decode<failed>(got->bytes);  // of the same form
    if (said) return lost(said->text);
  }
  return lost(std::string("sent '") + name_of(got->kind) + "' instead of '" + name_of(k) + "'");
}

void channel::cut() noexcept { ::shutdown(fd_.get(), SHUT_RDWR); }

}  // namespace troupe::link
