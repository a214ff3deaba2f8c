#include "src/link/socket.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <system_error>
#include <thread>

namespace troupe::link {
namespace {

using std::chrono::milliseconds;

std::string reason(int error) { return std::generic_category().message(error); }

struct free_addresses {
  void operator()(addrinfo* a) const noexcept { freeaddrinfo(a); }
};
using address_list = std::unique_ptr<addrinfo, free_addresses>;

result<address_list> resolve(const address& a, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(a.host.c_str(), std::to_string(a.port).c_str(), &hints, &found);
  if (code) return failure(errc::not_found, a.host + ": cannot be resolved: " + gai_strerror(code));
  return address_list(found);
}

address address_of(const sockaddr_storage& s) {
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (s.ss_family != AF_INET && s.ss_family != AF_INET6) return {};
  const socklen_t size = s.ss_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&s), size, host, sizeof host, port, sizeof port,
                  NI_NUMERICHOST | NI_NUMERICSERV))
    return {};
  return {host, static_cast<std::uint16_t>(std::stoi(port))};
}

/// Connects to the first of the addresses that answers; else errno of the last.
unique_fd try_connect(const addrinfo* list, time_point deadline, int& error) {
  for (const addrinfo* a = list; a; a = a->ai_next) {
    unique_fd fd(socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    error = errno;
    if (!fd) continue;
    if (connect(fd.get(), a->ai_addr, a->ai_addrlen) == 0) return fd;
    error = errno;
    if (error != EINPROGRESS) continue;
    error = ETIMEDOUT;
    if (!wait_for(fd.get(), POLLOUT, deadline)) continue;
    socklen_t size = sizeof error;
    getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error == 0) return fd;
  }
  return {};
}

}  // namespace

void unique_fd::reset(int fd) noexcept {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

bool wait_for(int fd, short events, time_point deadline) noexcept {
  for (;;) {
    const auto left =
        std::max(deadline - std::chrono::steady_clock::now(), std::chrono::steady_clock::duration::zero());
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
    const timespec limit{static_cast<time_t>(seconds.count()),
                         static_cast<long>(std::chrono::nanoseconds(left - seconds).count())};
    pollfd p{fd, events, 0};
    const int n = ppoll(&p, 1, &limit, nullptr);
    if (n > 0) return true;
    if (n == 0 || errno != EINTR) return false;
  }
}

result<listener> listen_at(const address& a) {
  auto list = resolve(a, AI_PASSIVE);
  if (!list) return list.take_error();
  listener out;
  const addrinfo& first = **list;
  out.fd = unique_fd(socket(first.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  if (!out.fd || setsockopt(out.fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
      bind(out.fd.get(), first.ai_addr, first.ai_addrlen) || listen(out.fd.get(), SOMAXCONN))
    return failure(errc::io_failed, to_string(a) + ": cannot listen there: " + reason(errno));
  out.at = {a.host, local_end(out.fd.get()).port};
  return out;
}

result<accepted> accept_from(const listener& l, time_point deadline) {
  for (;;) {
    if (!wait_for(l.fd.get(), POLLIN, deadline)) return accepted{};
    sockaddr_storage from{};
    socklen_t size = sizeof from;
    const int fd = accept4(l.fd.get(), reinterpret_cast<sockaddr*>(&from), &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) return accepted{unique_fd(fd), address_of(from)};
    if (errno != EINTR && errno != EAGAIN && errno != ECONNABORTED)
      return failure(errc::io_failed, to_string(l.at) + ": no connection can be taken: " + reason(errno));
  }
}

result<unique_fd> connect_to(const address& a, time_point deadline) {
  auto list = resolve(a, 0);
  if (!list) return list.take_error();
  int error = 0;
  for (;;) {
    if (unique_fd fd = try_connect(list->get(), deadline, error)) return fd;
    if (std::chrono::steady_clock::now() + milliseconds(100) >= deadline)
      return failure(errc::io_failed, to_string(a) + ": cannot be reached: " + reason(error));
    std::this_thread::sleep_for(milliseconds(100));
  }
}

result<std::pair<unique_fd, unique_fd>> socket_pair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds))
    return failure(errc::io_failed, "no pair of sockets can be made: " + reason(errno));
  return std::pair(unique_fd(fds[0]), unique_fd(fds[1]));
}

void tune(int fd) noexcept {
  // Each fails on a socket that is not TCP, where it is not needed.
  const int on = 1, idle = 5, interval = 3, count = 3, unanswered_ms = 15'000;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
}

address local_end(int fd) {
  sockaddr_storage s{};
  socklen_t size = sizeof s;
  return getsockname(fd, reinterpret_cast<sockaddr*>(&s), &size) ? address{} : address_of(s);
}

address far_end(int fd) {
  sockaddr_storage s{};
  socklen_t size = sizeof s;
  return getpeername(fd, reinterpret_cast<sockaddr*>(&s), &size) ? address{} : address_of(s);
}

}  // namespace troupe::link
