#pragma once
#include <chrono>
#include <string>
#include <utility>

#include "src/link/messages.hpp"

/// Plain POSIX sockets for links: non-blocking, closed on exec, waits bounded by a deadline.
namespace troupe::link {

using time_point = std::chrono::steady_clock::time_point;

/// Owns a file descriptor.
class unique_fd {
 public:
  unique_fd() = default;
  explicit unique_fd(int fd) noexcept : fd_(fd) {}
  unique_fd(unique_fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  unique_fd& operator=(unique_fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~unique_fd() { reset(); }
  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset(int fd = -1) noexcept;

 private:
  int fd_ = -1;
};

/// Waits until `fd` has one of poll's `events` (or is at its end). False: the deadline came first.
bool wait_for(int fd, short events, time_point deadline) noexcept;

struct listener {
  unique_fd fd;
  address at;  ///< with the port that was chosen where it was 0
};
/// Errors: not_found (no such host), io_failed.
result<listener> listen_at(const address&);
struct accepted {
  unique_fd fd;
  address from;
};
/// The next connection, or nothing when none came until the deadline. Errors: io_failed.
result<accepted> accept_from(const listener&, time_point deadline);
/// Tries again until the deadline: the other side may not listen yet. Errors: not_found, io_failed.
result<unique_fd> connect_to(const address&, time_point deadline);
/// A connected pair within this host. Errors: io_failed.
result<std::pair<unique_fd, unique_fd>> socket_pair();

/// Small messages at once, and an end within some 15 s where the other host goes away without a word.
void tune(int fd) noexcept;
/// This host's and the other's end of a TCP connection; empty for other sockets.
address local_end(int fd);
address far_end(int fd);

}  // namespace troupe::link
