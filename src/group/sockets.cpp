#include "src/group/sockets.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

namespace troupe::group {
namespace {

using clock = std::chrono::steady_clock;

constexpr std::uint64_t magic = 0x3170637465707274;
constexpr std::size_t most_waiting = 64;  // connections that have not said who they are
constexpr auto greeting_limit = std::chrono::seconds(5);
constexpr auto retry_pause = std::chrono::milliseconds(20);

std::string reason(int error) { return std::generic_category().message(error); }

int milliseconds_until(clock::time_point when) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(when - clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1'000'000));
}

using address_list = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

/// "host:port", "[::1]:port" or a host alone.
result<address_list> resolve(const std::string& address, bool to_listen) {
  std::string host = address, port = "0";
  if (!to_listen) {
    const auto colon = address.rfind(':');
    if (colon == std::string::npos) return failure(errc::invalid_argument, "'" + address + "' is not host:port");
    host = address.substr(0, colon);
    port = address.substr(colon + 1);
  }
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  if (const int code = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); code != 0)
    return failure(errc::io_failed, "'" + address + "' cannot be resolved: " + gai_strerror(code));
  return address_list(found, freeaddrinfo);
}

greeting greet(const group_place& place, std::uint32_t to, const std::string& secret) {
  greeting g{};
  g.magic = magic;
  g.size = place.size;
  g.from = place.rank;
  g.to = to;
  g.secret_bytes = static_cast<std::uint32_t>(secret.size());
  std::memcpy(g.secret, secret.data(), secret.size());
  return g;
}

/// Without a hint in its time of where two secrets differ.
bool same_secret(const greeting& a, const greeting& b) {
  unsigned difference = a.secret_bytes ^ b.secret_bytes;
  for (std::size_t i = 0; i < sizeof a.secret; ++i) difference |= static_cast<unsigned char>(a.secret[i] ^ b.secret[i]);
  return difference == 0;
}

void prepare(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/// Moves all of `bytes` before `end`, in or out.
bool move_all(int fd, void* bytes, std::size_t size, bool out, clock::time_point end) {
  auto* at = static_cast<char*>(bytes);
  while (size > 0) {
    const ssize_t n = out ? send(fd, at, size, MSG_NOSIGNAL) : recv(fd, at, size, 0);
    if (n > 0) {
      at += n;
      size -= static_cast<std::size_t>(n);
      continue;
    }
    if (n == 0 || (errno != EAGAIN && errno != EINTR)) return false;
    pollfd p{fd, static_cast<short>(out ? POLLOUT : POLLIN), 0};
    if (clock::now() >= end || (::poll(&p, 1, milliseconds_until(end)) < 0 && errno != EINTR)) return false;
  }
  return true;
}

/// Connects to one of an address's forms; empty: nobody listens there (yet).
descriptor try_connect(const addrinfo* list, clock::time_point end) {
  for (const addrinfo* a = list; a; a = a->ai_next) {
    descriptor d(socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol));
    if (!d) continue;
    if (connect(d.get(), a->ai_addr, a->ai_addrlen) != 0) {
      if (errno != EINPROGRESS) continue;
      pollfd p{d.get(), POLLOUT, 0};
      if (::poll(&p, 1, milliseconds_until(end)) <= 0) continue;
      int error = 0;
      socklen_t size = sizeof error;
      if (getsockopt(d.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) continue;
    }
    prepare(d.get());
    return d;
  }
  return descriptor();
}

result<descriptor> connect_to(const group_place& place, std::uint32_t rank, const std::string& address,
                              const std::string& secret, clock::time_point end) {
  auto list = resolve(address, false);
  if (!list) return list.take_error();
  for (;;) {
    descriptor d = try_connect(list->get(), end);
    if (d) {
      greeting mine = greet(place, rank, secret), theirs{};
      // A rank that listens may first be busy with connecting to others; one that hangs up is of another group.
      if (move_all(d.get(), &mine, sizeof mine, true, end) && move_all(d.get(), &theirs, sizeof theirs, false, end) &&
          theirs.magic == magic && theirs.size == place.size && theirs.from == rank && theirs.to == place.rank &&
          same_secret(mine, theirs))
        return d;
      return failure(errc::rank_failed, "rank " + std::to_string(rank) + " at " + address +
                                            " does not answer as a member of this group: do all ranks have the same "
                                            "addresses and secret?");
    }
    if (clock::now() >= end)
      return failure(errc::rank_failed, "rank " + std::to_string(rank) + " cannot be reached at " + address);
    std::this_thread::sleep_for(retry_pause);
  }
}

/// Takes in the ranks above this one, and turns away whoever is none of them.
result<void> accept_all(const group_place& place, int listener, const std::string& secret, clock::time_point end,
                        std::vector<descriptor>& mesh) {
  struct guest {
    descriptor fd;
    clock::time_point end;
    greeting said{};
    std::size_t got = 0;
  };
  std::vector<guest> guests;
  std::uint32_t missing = place.size - 1 - place.rank;
  while (missing > 0) {
    std::vector<pollfd> polls{{listener, POLLIN, 0}};
    clock::time_point wake = end;
    for (const guest& g : guests) {
      polls.push_back({g.fd.get(), POLLIN, 0});
      wake = std::min(wake, g.end);
    }
    (void)::poll(polls.data(), polls.size(), milliseconds_until(wake) + 1);
    const auto now = clock::now();
    for (std::size_t i = guests.size(); i-- > 0;) {
      guest& g = guests[i];
      bool leaves = now >= g.end;
      if (polls[i + 1].revents) {
        const ssize_t n = recv(g.fd.get(), reinterpret_cast<char*>(&g.said) + g.got, sizeof g.said - g.got, 0);
        if (n > 0) g.got += static_cast<std::size_t>(n);
        leaves = leaves || n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
      }
      if (g.got == sizeof g.said) {
        leaves = true;
        const greeting& s = g.said;
        const bool member = s.magic == magic && s.size == place.size && s.to == place.rank && s.from > place.rank &&
                            s.from < place.size && same_secret(s, greet(place, s.from, secret));
        if (member && !mesh[s.from]) {
          greeting mine = greet(place, s.from, secret);
          if (move_all(g.fd.get(), &mine, sizeof mine, true, now + greeting_limit)) {
            mesh[s.from] = std::move(g.fd);
            --missing;
          }
        }
      }
      if (leaves) guests.erase(guests.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (missing == 0) break;
    if (polls[0].revents) {
      descriptor d(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (d) {
        prepare(d.get());
        if (guests.size() == most_waiting) guests.erase(guests.begin());
        guests.push_back({std::move(d), now + greeting_limit});
      }
    }
    if (now >= end) {
      std::uint32_t absent = place.rank + 1;
      while (mesh[absent]) ++absent;
      return failure(errc::rank_failed, "rank " + std::to_string(absent) + " has not connected in time");
    }
  }
  return {};
}

}  // namespace

descriptor::~descriptor() {
  if (fd_ >= 0) close(fd_);
}

tcp_listener::tcp_listener(tcp_listener&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), address_(std::move(other.address_)) {}
tcp_listener& tcp_listener::operator=(tcp_listener&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(address_, other.address_);
  return *this;
}
tcp_listener::~tcp_listener() {
  if (fd_ >= 0) close(fd_);
}

result<tcp_listener> listen_tcp_group(const std::string& host) {
  auto list = resolve(host, true);
  if (!list) return list.take_error();
  int error = 0;
  for (const addrinfo* a = list->get(); a; a = a->ai_next) {
    descriptor d(socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol));
    sockaddr_storage bound{};
    socklen_t size = sizeof bound;
    if (!d || bind(d.get(), a->ai_addr, a->ai_addrlen) != 0 || listen(d.get(), 256) != 0 ||
        getsockname(d.get(), reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
      error = errno;
      continue;
    }
    const bool six = bound.ss_family == AF_INET6;
    const std::uint16_t port = ntohs(six ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                         : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
    const bool bare = host.find(':') != std::string::npos && !host.starts_with('[');
    return tcp_listener(d.release(), (bare ? "[" + host + "]" : host) + ":" + std::to_string(port));
  }
  return failure(errc::io_failed, "nothing can listen on '" + host + "': " + reason(error));
}

result<std::vector<descriptor>> connect_mesh(const group_place& place, std::span<const std::string> addresses,
                                             int listener, const std::string& secret, std::chrono::milliseconds limit) {
  const auto end = clock::now() + limit;
  std::vector<descriptor> mesh(place.size);
  for (std::uint32_t r = 0; r < place.rank; ++r) {
    auto d = connect_to(place, r, addresses[r], secret, end);
    if (!d) return d.take_error();
    mesh[r] = std::move(*d);
  }
  if (auto ok = accept_all(place, listener, secret, end, mesh); !ok) return ok.take_error();
  return mesh;
}

}  // namespace troupe::group
