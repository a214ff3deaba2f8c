#pragma once
#include <cuda_runtime_api.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>

#include "src/base/result.hpp"
#include "src/gpu/peers.hpp"
#include "src/model/shard.hpp"

/// What the GPU ranks of a group have among them: NCCL, and where cards reach each other's memory, that.
namespace troupe::gpu {

/// What rank 0 makes and hands to the others; opaque.
using group_id = std::array<char, 128>;
/// Errors: not_found (no NCCL), rank_failed.
result<group_id> make_group_id();
/// "2.28.9"; empty where there is no NCCL.
std::string nccl_version();

/// One rank's end. All ranks make the same calls in the same order, each from one thread; `abort` may come from any.
/// The calls enqueue and may be captured. Non-blocking underneath, so no call waits longer than `join` was told.
class communicator {
 public:
  /// Waits until all ranks of the group have come, `join_limit` at most: across hosts NCCL takes seconds over it. Later
  /// calls wait `call_limit` at most. The card must be current. Errors: not_found, rank_failed.
  static result<std::shared_ptr<communicator>> join(const model::group_place&, const group_id&,
                                                    std::chrono::milliseconds join_limit,
                                                    std::chrono::milliseconds call_limit);
  virtual ~communicator() = default;
  virtual const model::group_place& place() const = 0;
  /// data[i] of all ranks, summed, to all ranks; f32, in place. Every rank has the same bits; their order of addition
  /// may depend on n where there are more than two ranks.
  virtual result<void> all_reduce(float* data, std::uint64_t n, cudaStream_t) = 0;
  /// n floats of each rank at parts + rank * n, to all ranks. `mine` may be that place.
  virtual result<void> all_gather(const float* mine, float* parts, std::uint64_t n, cudaStream_t) = 0;
  /// What has gone wrong on the way, or that the group was aborted.
  virtual result<void> state() = 0;
  /// Kernels that wait for other ranks give up; every later call fails. Returns at once; what NCCL frees, it frees when
  /// the last captured graph that uses it is gone.
  virtual void abort() noexcept = 0;

  /// The direct ways to the other cards, null where there are none; all ranks have them or none. Before the first step.
  void use(std::unique_ptr<peers> p) { peers_ = std::move(p); }
  const peers* direct() const { return peers_.get(); }

 protected:
  std::unique_ptr<peers> peers_;
};

}  // namespace troupe::gpu
