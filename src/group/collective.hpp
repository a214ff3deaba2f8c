#pragma once
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/result.hpp"
#include "src/model/shard.hpp"

/// How the ranks of a group show one another what they computed: as threads of a process, as processes that share
/// memory, or over TCP.
namespace troupe::group {

using model::group_place;
using model::slice;

/// A rank's membership. One thread of each rank calls it, all ranks the same operations in the same order with the same
/// sizes; every operation returns when all ranks have come to it. Any failure is final, for all members: whoever waits
/// returns with errc::rank_failed, and so does every later call. Nothing allocates but failures.
class collective {
 public:
  virtual ~collective() = default;
  collective(const collective&) = delete;
  collective& operator=(const collective&) = delete;

  const group_place& place() const { return place_; }

  /// Of a row-major matrix of n_rows rows, `ld` floats apart, each rank has written its slice of the columns; then all
  /// ranks hold all slices. `slices`: one per rank, disjoint.
  result<void> share_columns(float* base, std::size_t ld, std::uint32_t n_rows, std::span<const slice> slices);
  /// The same, but only rank 0 holds the others' slices afterwards.
  result<void> gather_columns(float* base, std::size_t ld, std::uint32_t n_rows, std::span<const slice> slices);
  /// Equal blocks, one per rank, of which each rank has filled its own; then all ranks have all of them.
  result<void> share_blocks(std::span<std::byte> blocks);
  /// Rank 0's bytes, on all ranks.
  result<void> broadcast(std::span<std::byte> data);
  result<void> barrier();

  /// Ends the group, for all members, now and for good. Any thread.
  virtual void abort() noexcept = 0;
  /// The rank that the others are waiting for, as far as this member can see. Any thread.
  virtual std::optional<std::uint32_t> awaited() const { return std::nullopt; }

 protected:
  /// `capacity`: bytes of one block, what ranks exchange at a time.
  collective(const group_place& place, std::uint64_t capacity)
      : place_(place), capacity_(capacity), bytes_(place.size) {}

  enum class readers : std::uint8_t { all, root };

  /// Where this rank's next block goes: `capacity` bytes.
  virtual std::byte* own_block() = 0;
  /// All ranks have filled the first bytes[rank] bytes of their blocks; returns when `readers` can read them, until the
  /// next call.
  virtual result<void> swap(std::span<const std::uint64_t> bytes, readers) = 0;
  virtual const std::byte* block(std::uint32_t rank) const = 0;

 private:
  result<void> columns(float* base, std::size_t ld, std::uint32_t n_rows, std::span<const slice> slices, readers);

  const group_place place_;
  const std::uint64_t capacity_;
  std::vector<std::uint64_t> bytes_;
};

struct group_options {
  std::uint64_t buffer_bytes = 1u << 20;     ///< of each rank, larger exchanges go in parts; at least 64
  std::chrono::milliseconds limit{120'000};  ///< for one wait: a rank that comes later than this is lost
};

/// Ranks of one process: member r is for rank r. A member may outlive the others. Errors: invalid_argument,
/// out_of_memory.
result<std::vector<std::shared_ptr<collective>>> make_thread_group(std::uint32_t size, const group_options&);

}  // namespace troupe::group
