#include "src/gpu/peers.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <random>
#include <set>
#include <string>

#include "src/base/log.hpp"
#include "src/gpu/communicator.hpp"

namespace troupe::gpu {
namespace {

std::uint64_t this_process() {
  static const std::uint64_t number = [] {
    std::random_device random;
    return std::uint64_t{random()} << 32 | random();
  }();
  return number;
}

bool forbidden() {
  const char* said = std::getenv("NCCL_P2P_DISABLE");
  return said && *said && std::string_view(said) != "0";
}

failure no_way(std::uint32_t rank, const std::string& why) {
  return {errc::unsupported, "no way into the memory of rank " + std::to_string(rank) + "'s card: " + why};
}

/// Cards on which a group of this process exchanges sums.
std::mutex claimed_mutex;
std::set<int> claimed;

/// A call that may fail without harm to what follows.
result<void> attempt(cudaError_t code, const char* call) {
  if (code != cudaSuccess) (void)cudaGetLastError();
  return check(code, call);
}

}  // namespace

result<std::unique_ptr<peers>> peers::make(const model::group_place& place, const device_info& device) {
  if (place.size < 2 || place.size > kernels::gpu::exchange_memory::most_ranks)
    return failure(errc::unsupported, "cards exchange sums directly among 2 to " +
                                          std::to_string(kernels::gpu::exchange_memory::most_ranks) + " ranks");
  if (forbidden()) return failure(errc::unsupported, "NCCL_P2P_DISABLE is set");
  std::unique_ptr<peers> p(new peers);
  {
    // Of two groups each could fill one of two cards with blocks that wait for the other's turn on the other card.
    std::lock_guard lock(claimed_mutex);
    if (!claimed.insert(device.ordinal).second)
      return failure(errc::unsupported, "another group of this process has the card");
    p->device_ = device.ordinal;
  }
  auto inbox = memory::on_device(kernels::gpu::exchange_inbox_bytes(place.size), "sums of other ranks");
  if (!inbox) return inbox.take_error();
  p->inbox_ = std::move(*inbox);
  auto word = memory::pinned(sizeof(std::uint32_t), "the end of a group");
  if (!word) return word.take_error();
  p->word_ = std::move(*word);
  checked ok;
  ok(cudaMemset(p->inbox_.data(), 0, p->inbox_.size()), "cudaMemset")(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  if (!ok.ok()) return ok.take().take_error();
  p->n_sms_ = device.n_sms;
  p->view_.rank = place.rank;
  p->view_.size = place.size;
  p->view_.capacity = kernels::gpu::exchange_capacity(place.size);
  p->view_.given_up = p->word_.at<std::uint32_t>(0);
  return p;
}

peers::~peers() {
  {
    std::lock_guard lock(claimed_mutex);
    claimed.erase(device_);
  }
  if (word_.data() && *view_.given_up) {
    new memory(std::move(inbox_));
    new memory(std::move(word_));
    return;
  }
  if (opened_.empty()) return;
  int current = 0;
  (void)cudaGetDevice(&current);
  (void)cudaSetDevice(device_);
  for (void* p : opened_) (void)cudaIpcCloseMemHandle(p);
  (void)cudaSetDevice(current);
}

peers::card peers::own() const {
  card c{};
  c.there = true;
  c.n_sms = n_sms_;
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  std::strncpy(c.host, boot.c_str(), sizeof c.host - 1);
  c.process = this_process();
  c.device = device_;
  c.inbox = inbox_.data();
  if (!attempt(cudaIpcGetMemHandle(&c.handle, inbox_.data()), "cudaIpcGetMemHandle")) c.handle = {};
  return c;
}

result<void> peers::open(std::span<const card> all) {
  const card& mine = all[view_.rank];
  for (std::uint32_t q = 0; q < all.size(); ++q) {
    if (!all[q].there) return no_way(q, "it has none for us");
    result<void*> inbox = q == view_.rank ? result<void*>(inbox_.data()) : reach(mine, all[q]);
    if (!inbox) return no_way(q, inbox.error().message);
    n_sms_ = std::min(n_sms_, all[q].n_sms);
    view_.inbox[q] = static_cast<std::uint64_t*>(*inbox);
  }
  return {};
}

/// Where the inbox of another rank's card lies for ours.
result<void*> peers::reach(const card& mine, const card& other) {
  if (other.process == mine.process) {
    int can = 0;
    if (cudaDeviceCanAccessPeer(&can, device_, other.device) != cudaSuccess || !can)
      return failure(errc::unsupported, "the cards do not reach each other");
    const cudaError_t code = cudaDeviceEnablePeerAccess(other.device, 0);
    if (code == cudaErrorPeerAccessAlreadyEnabled)
      (void)cudaGetLastError();
    else if (auto ok = attempt(code, "cudaDeviceEnablePeerAccess"); !ok)
      return ok.take_error();
    return other.inbox;
  }
  if (*other.host == '\0' || std::strncmp(other.host, mine.host, sizeof other.host) != 0)
    return failure(errc::unsupported, "it is elsewhere");
  void* at = nullptr;
  if (auto ok =
          attempt(cudaIpcOpenMemHandle(&at, other.handle, cudaIpcMemLazyEnablePeerAccess), "cudaIpcOpenMemHandle");
      !ok)
    return ok.take_error();
  opened_.push_back(at);
  return at;
}

void peers::give_up() noexcept { std::atomic_ref(*word_.at<std::uint32_t>(0)).store(1); }

result<void> one_card_each(const model::group_place& place, const device_info& device, const share_blocks& share) {
  std::vector<std::array<char, 16>> cards(place.size);
  cards[place.rank] = device.uuid;
  if (auto ok = share(std::as_writable_bytes(std::span(cards))); !ok) return ok;
  for (std::uint32_t q = 1; q < place.size; ++q)
    if (const auto same = std::ranges::find(cards, cards[q]); same != cards.begin() + q)
      return failure(errc::invalid_argument, "ranks " + std::to_string(same - cards.begin()) + " and " +
                                                 std::to_string(q) +
                                                 " have the same card: give one of them another by --device cuda:N");
  return {};
}

result<void> connect_peers(communicator& group, const device_info& device, const share_blocks& share) {
  const model::group_place& place = group.place();
  std::vector<peers::card> cards(place.size);
  result<void> way;
  auto made = peers::make(place, device);
  if (made)
    cards[place.rank] = (*made)->own();
  else
    way = made.take_error();
  if (auto ok = share(std::as_writable_bytes(std::span(cards))); !ok) return ok;
  if (way) way = (*made)->open(cards);
  std::vector<std::uint32_t> has_all(place.size);
  has_all[place.rank] = way.ok();
  if (auto ok = share(std::as_writable_bytes(std::span(has_all))); !ok) return ok;
  if (!way) log().info("rank {}: sums go through NCCL: {}", place.rank, way.error().message);
  if (std::ranges::count(has_all, 1u) == static_cast<std::ptrdiff_t>(place.size)) group.use(std::move(*made));
  return {};
}

}  // namespace troupe::gpu
