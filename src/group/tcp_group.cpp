#include "src/group/tcp_group.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <optional>

#include "src/group/sockets.hpp"

namespace troupe::group {
namespace {

using clock = std::chrono::steady_clock;

constexpr std::uint32_t frame_magic = 0x6d617266;
/// A rank that has nothing more to do may leave while others still wait for a third one's last block, which is on its
/// way then. One that is not there after this time will not come.
constexpr auto after_a_leave = std::chrono::seconds(2);

struct frame {
  std::uint32_t magic;
  std::uint32_t number;  ///< of the exchange
  std::uint64_t bytes;   ///< that follow
};

}  // namespace

/// Every exchange sends a frame to every other rank and takes one from each, so it is a meeting of all whatever it
/// carries. A rank that fails or is aborted shuts its connections, which all who wait for it see.
class tcp_collective final : public collective {
 public:
  tcp_collective(const group_place& place, const group_options& o, std::uint64_t capacity, std::vector<descriptor> mesh,
                 descriptor bell)
      : collective(place, capacity),
        limit_(o.limit),
        own_(new std::byte[capacity]),
        bell_(std::move(bell)),
        polls_(place.size) {
    for (std::uint32_t r = 0; r < place.size; ++r)
      peers_.push_back(
          {std::move(mesh[r]), r == place.rank ? nullptr : std::unique_ptr<std::byte[]>(new std::byte[capacity])});
  }

  void abort() noexcept override {
    aborted_.store(true);
    for (const peer& p : peers_)
      if (p.fd) shutdown(p.fd.get(), SHUT_RDWR);
    const std::uint64_t one = 1;
    (void)!write(bell_.get(), &one, sizeof one);
  }

 private:
  struct peer {
    descriptor fd;
    std::unique_ptr<std::byte[]> block;
    frame out{}, in{};
    std::uint64_t to_send = 0, sent = 0;  ///< bytes of the exchange, its frame among them
    std::uint64_t to_get = 0, got = 0;
    bool gone = false;
  };

  std::byte* own_block() override { return own_.get(); }
  const std::byte* block(std::uint32_t rank) const override {
    return rank == place().rank ? own_.get() : peers_[rank].block.get();
  }

  result<void> swap(std::span<const std::uint64_t> bytes, readers who) override {
    const std::uint32_t me = place().rank;
    ++number_;
    for (std::uint32_t r = 0; r < place().size; ++r) {
      if (r == me) continue;
      peer& p = peers_[r];
      const bool sends = who == readers::all || r == 0, gets = who == readers::all || me == 0;
      p.out = {frame_magic, number_, sends ? bytes[me] : 0};
      p.to_send = sizeof(frame) + p.out.bytes;
      p.to_get = sizeof(frame) + (gets ? bytes[r] : 0);
      p.sent = p.got = 0;
    }
    auto ok = move_all();
    if (!ok) abort();
    return ok;
  }

  result<void> move_all() {
    auto end = clock::now() + limit_;
    bool somebody_left = false;
    for (;;) {
      if (aborted_.load()) return lost("rank " + std::to_string(place().rank) + ": the group of ranks was ended");
      std::optional<std::uint32_t> missing;
      for (std::uint32_t r = 0; r < place().size; ++r) {
        if (r == place().rank) continue;
        if (auto ok = move(r); !ok) return ok;
        if (peers_[r].sent < peers_[r].to_send || peers_[r].got < peers_[r].to_get) missing = missing.value_or(r);
      }
      if (!missing) return {};
      const auto now = clock::now();
      if (now >= end)
        return lost("rank " + std::to_string(*missing) + " has not come to an exchange within " +
                    std::to_string(limit_.count()) + " ms");
      const bool left = wait(end - now);
      if (left && !somebody_left) end = std::min(end, clock::now() + after_a_leave);
      somebody_left = somebody_left || left;
    }
  }

  /// Until something can be moved. True: a rank that this one does not wait for has left.
  bool wait(clock::duration at_most) {
    for (std::uint32_t r = 0; r < place().size; ++r) {
      const peer& p = peers_[r];
      polls_[r] = {p.gone ? -1 : p.fd.get(), POLLRDHUP, 0};
      if (p.sent < p.to_send) polls_[r].events |= POLLOUT;
      if (p.got < p.to_get) polls_[r].events |= POLLIN;
    }
    polls_[place().rank] = {bell_.get(), POLLIN, 0};
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(at_most).count() + 1;
    (void)::poll(polls_.data(), polls_.size(), static_cast<int>(std::min<std::int64_t>(ms, 1'000'000)));
    bool left = false;
    for (std::uint32_t r = 0; r < place().size; ++r) {
      peer& p = peers_[r];
      if (r == place().rank || p.sent < p.to_send || p.got < p.to_get) continue;
      if (polls_[r].revents & (POLLRDHUP | POLLHUP | POLLERR)) left = p.gone = true;
    }
    return left;
  }

  /// As much as goes without waiting.
  result<void> move(std::uint32_t rank) {
    peer& p = peers_[rank];
    const auto gone = [&](ssize_t n) { return n == 0 || (errno != EAGAIN && errno != EINTR); };
    while (p.got < p.to_get) {
      iovec parts[2];
      const ssize_t n = readv(p.fd.get(), parts, split(parts, p.in, p.block.get(), p.got, p.to_get));
      if (n <= 0) {
        if (gone(n)) return lost("rank " + std::to_string(rank) + " has left the group");
        break;
      }
      const bool had_frame = p.got >= sizeof(frame);
      p.got += static_cast<std::uint64_t>(n);
      if (!had_frame && p.got >= sizeof(frame) &&
          (p.in.magic != frame_magic || p.in.number != number_ || p.in.bytes != p.to_get - sizeof(frame)))
        return lost("rank " + std::to_string(rank) + " is at exchange " + std::to_string(p.in.number) + " with " +
                    std::to_string(p.in.bytes) + " bytes, this one at exchange " + std::to_string(number_) + " with " +
                    std::to_string(p.to_get - sizeof(frame)));
    }
    while (p.sent < p.to_send) {
      iovec parts[2];
      msghdr m{};
      m.msg_iov = parts;
      m.msg_iovlen = split(parts, p.out, own_.get(), p.sent, p.to_send);
      const ssize_t n = sendmsg(p.fd.get(), &m, MSG_NOSIGNAL);
      if (n <= 0) {
        if (gone(n)) return lost("rank " + std::to_string(rank) + " has left the group");
        break;
      }
      p.sent += static_cast<std::uint64_t>(n);
    }
    return {};
  }

  /// The rest of a frame and its block, of which `done` bytes have been moved.
  static int split(iovec (&parts)[2], frame& head, std::byte* body, std::uint64_t done, std::uint64_t all) {
    int n = 0;
    if (done < sizeof head) parts[n++] = {reinterpret_cast<std::byte*>(&head) + done, sizeof head - done};
    const std::uint64_t at = done < sizeof head ? 0 : done - sizeof head;
    if (all - sizeof head > at) parts[n++] = {body + at, all - sizeof head - at};
    return n;
  }

  static failure lost(std::string what) { return {errc::rank_failed, std::move(what)}; }

  const std::chrono::milliseconds limit_;
  std::unique_ptr<std::byte[]> own_;
  std::vector<peer> peers_;
  descriptor bell_;  ///< rung by abort
  std::vector<pollfd> polls_;
  std::uint32_t number_ = 0;
  std::atomic<bool> aborted_{false};
};

result<std::shared_ptr<collective>> join_tcp_group(const group_place& place, std::span<const std::string> addresses,
                                                   tcp_listener own, const std::string& secret,
                                                   const group_options& o) {
  const auto refuse = [](const std::string& what) { return failure(errc::invalid_argument, what); };
  if (place.size == 0 || place.size > 4096 || place.rank >= place.size) return refuse("no such rank in a group");
  if (addresses.size() != place.size)
    return refuse(std::to_string(addresses.size()) + " addresses for " + std::to_string(place.size) + " ranks");
  if (secret.empty() || secret.size() > sizeof greeting::secret) return refuse("a group's secret has 1 to 64 bytes");
  if (o.buffer_bytes < 64 || o.buffer_bytes > (1u << 30)) return refuse("a group's buffers have 64 bytes to 1 GiB");
  auto mesh = connect_mesh(place, addresses, own.fd(), secret, o.limit);
  if (!mesh) return mesh.take_error();
  descriptor bell(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!bell) return failure(errc::io_failed, "no descriptor is left for a group of ranks");
  try {
    return std::shared_ptr<collective>(
        std::make_shared<tcp_collective>(place, o, o.buffer_bytes / 64 * 64, std::move(*mesh), std::move(bell)));
  } catch (const std::bad_alloc&) {
    return failure(errc::out_of_memory, "no memory for a group's buffers: free memory");
  }
}

}  // namespace troupe::group
