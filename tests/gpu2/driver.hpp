#pragma once
#include "src/gpu/device.hpp"
#include "src/gpu/device_weights.hpp"
#include "src/group/collective.hpp"
#include "tests/backend/group.hpp"
#include "tests/gpu/driver.hpp"

namespace troupe::test {

inline constexpr auto group_limit = std::chrono::seconds(20);

/// Whether small sums go straight to the other cards or everything goes through NCCL.
enum class sums : std::uint8_t { direct, nccl };
inline constexpr sums both_ways[] = {sums::direct, sums::nccl};
inline const char* name(sums s) { return s == sums::direct ? "direct" : "NCCL"; }

/// A group of ranks on threads, on cards 0, 1 and so on.
class card_group {
 public:
  explicit card_group(std::uint32_t size, sums way = sums::direct)
      : id_(gpu::make_group_id().value()), way_(way), members_(group::make_thread_group(size, {}).value()) {}
  /// This rank's end; its card is current from then on. All ranks call it at once.
  std::shared_ptr<gpu::communicator> join(std::uint32_t rank) const {
    gpu::use_device(static_cast<int>(rank)).value();
    auto end = gpu::communicator::join(members_[rank]->place(), id_, group_limit, group_limit).value();
    if (way_ == sums::direct) {
      connect(*end, rank);
      if (!end->direct()) throw std::runtime_error("the cards do not reach each other");
    }
    return end;
  }
  void connect(gpu::communicator& end, std::uint32_t rank) const {
    const auto share = [&](std::span<std::byte> b) { return members_[rank]->share_blocks(b); };
    gpu::connect_peers(end, gpu::use_device(static_cast<int>(rank)).value(), share).value();
  }

 private:
  gpu::group_id id_;
  sums way_;
  std::vector<std::shared_ptr<group::collective>> members_;
};

/// Two or more cards as one backend; each call goes to all of them.
inline std::unique_ptr<rank_group> make_card_ranks(std::shared_ptr<const model::model> m, const gpu::gpu_options& o,
                                                   std::shared_ptr<recorder> sinks, sums way = sums::direct,
                                                   std::uint32_t size = 2) {
  const card_group cards(size, way);
  return std::make_unique<rank_group>(size, std::move(sinks),
                                      [&](std::uint32_t rank, auto own) -> result<std::unique_ptr<model::backend>> {
                                        gpu::gpu_options mine = o;
                                        mine.device = static_cast<int>(rank);
                                        mine.place = {rank, size};
                                        return gpu::make_gpu_backend(m, mine, std::move(own), cards.join(rank));
                                      });
}

class group_driver : public backend_driver {
 public:
  group_driver(std::shared_ptr<const model::model> m, const gpu::gpu_options& o, sums way = sums::direct,
               std::uint32_t size = 2)
      : backend_driver([&](auto sinks) { return make_card_ranks(m, o, std::move(sinks), way, size); }) {}
  rank_group& ranks() { return static_cast<rank_group&>(*backend); }
};

}  // namespace troupe::test
