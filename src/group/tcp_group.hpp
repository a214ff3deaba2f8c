#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "src/group/collective.hpp"

/// A group whose ranks are processes of any hosts: every two are connected. Ranks are of one byte order (x86-64). After
/// an abort another member's call may still end well if all had come to that exchange; the next one fails.
namespace troupe::group {

/// A socket that the ranks above this one connect to.
class tcp_listener {
 public:
  tcp_listener(tcp_listener&& other) noexcept;
  tcp_listener& operator=(tcp_listener&& other) noexcept;
  ~tcp_listener();
  /// "host:port", for the other ranks.
  const std::string& address() const noexcept { return address_; }
  int fd() const noexcept { return fd_; }

 private:
  friend result<tcp_listener> listen_tcp_group(const std::string& host);
  tcp_listener(int fd, std::string address) : fd_(fd), address_(std::move(address)) {}
  int fd_;
  std::string address_;
};

/// Listens on a free port. `host` is a name or address of this machine by which the others reach it. Errors: io_failed.
result<tcp_listener> listen_tcp_group(const std::string& host);

/// Connects this rank with all others, which may come in any order, but within the limit. `addresses`: of all ranks.
/// `secret`: the same random bytes on all, at most 64; who does not know it is turned away. It goes over the wire as it
/// is: it keeps out mix-ups and strangers, not eavesdroppers. Errors: invalid_argument, rank_failed (a rank did not
/// come, or is of another group).
result<std::shared_ptr<collective>> join_tcp_group(const group_place&, std::span<const std::string> addresses,
                                                   tcp_listener own, const std::string& secret, const group_options&);

}  // namespace troupe::group
