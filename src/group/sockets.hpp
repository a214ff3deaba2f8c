#pragma once
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/base/result.hpp"
#include "src/group/tcp_group.hpp"

namespace troupe::group {

/// A descriptor that is closed when its owner goes.
class descriptor {
 public:
  explicit descriptor(int fd = -1) : fd_(fd) {}
  descriptor(descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~descriptor();
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

/// What the two ends of a connection say first. A rank connects to those below it.
struct greeting {
  std::uint64_t magic;
  std::uint32_t size, from, to;
  std::uint32_t secret_bytes;
  char secret[64];
};

/// A connection to each other rank, made within `limit`: [rank], the own one empty. Non-blocking, without delay.
result<std::vector<descriptor>> connect_mesh(const group_place&, std::span<const std::string> addresses, int listener,
                                             const std::string& secret, std::chrono::milliseconds limit);

}  // namespace troupe::group
