#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/gpu/exchange.hpp"
#include "src/gpu/device.hpp"
#include "src/model/shard.hpp"

/// Memory that the cards of a group write into each other's, for sums too small to be worth a collective.
namespace troupe::gpu {

class communicator;

/// A rank's inbox, and its way into the others'. Errors of CUDA here mean that there is no such way, never that the
/// rank is lost.
class peers {
 public:
  /// What a rank tells the others of itself, as plain bytes.
  struct card {
    bool there;  ///< false: it has no inbox
    std::uint32_t n_sms;
    char host[40];          ///< of the boot, as the kernel names it
    std::uint64_t process;  ///< drawn at random by each
    int device;             ///< as that process counts
    void* inbox;
    cudaIpcMemHandle_t handle;
  };

  /// Takes this rank's inbox on the current card, which one group of a process can have.
  static result<std::unique_ptr<peers>> make(const model::group_place&, const device_info&);
  /// Of a group that was given up, kernels may still be writing: what they use stays.
  ~peers();
  peers(const peers&) = delete;
  peers& operator=(const peers&) = delete;

  card own() const;
  /// Opens the others' inboxes: ranks of this process by their address, of others on this host by CUDA's handles.
  result<void> open(std::span<const card> all);

  const kernels::gpu::exchange_memory& view() const { return view_; }
  /// Of the least of the cards, so that all ranks decide alike.
  std::uint32_t n_sms() const { return n_sms_; }
  /// Whoever waits in a kernel stops waiting. Any thread.
  void give_up() noexcept;

 private:
  peers() = default;
  result<void*> reach(const card& mine, const card& other);
  memory inbox_, word_;
  std::vector<void*> opened_;  // by handles
  kernels::gpu::exchange_memory view_;
  int device_ = -1;  // claimed for this group
  std::uint32_t n_sms_ = 0;
};

/// Equal blocks, one per rank, of which each rank has filled its own: then all ranks have all.
using share_blocks = std::function<result<void>(std::span<std::byte> blocks)>;

/// Fails on all ranks where two of them have the same card: NCCL may hang then, and kernels that wait for each other
/// take turns on it. All ranks call it. Errors: those of `share`; invalid_argument, naming the first two ranks.
result<void> one_card_each(const model::group_place&, const device_info&, const share_blocks& share);

/// Gives the group's end direct ways to the other cards if every rank has them to every other; else sums take NCCL, and
/// the log says why. All ranks call it. NCCL_P2P_DISABLE, which says that cards do not reach each other here, holds for
/// this too. Errors: those of `share`.
result<void> connect_peers(communicator&, const device_info&, const share_blocks& share);

}  // namespace troupe::gpu
