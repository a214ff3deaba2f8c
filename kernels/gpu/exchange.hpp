#pragma once
#include "kernels/gpu/dense.hpp"

/// Small sums over the cards of a group, made by the kernels that need them: a rank stores its part straight into the
/// other cards' memory and waits for theirs in its own. A word carries a float and the number of its exchange, so one
/// store brings both, and there is nothing to fence or to clear.
///
/// Exchanges have consecutive numbers, the same on all ranks, and use the two halves of the inboxes in turn: who is at
/// exchange c has all parts of c - 1, so whoever sent those has read c - 2. A rank that leaves exchanges out must have
/// waited for the others in another way before the next.
/// What waits waits on the card, so all blocks of a kernel must have room there at once, or be started in order.
namespace troupe::kernels::gpu {

/// What a rank's kernels need to know of the group's inboxes. size 1: there is nobody.
struct exchange_memory {
  static constexpr std::uint32_t most_ranks = 8;
  std::uint32_t rank = 0, size = 1;
  std::uint32_t capacity = 0;  ///< floats of one exchange, a multiple of 4
  /// Of each rank: [2][size][2][capacity / 2] words, zero at first. Of four floats the first two and the last two lie
  /// apart, so that the stores of a warp, two words a lane, leave no gaps, which halves the traffic.
  std::uint64_t* inbox[most_ranks]{};
  const std::uint32_t* given_up = nullptr;  ///< pinned; not 0: nobody waits any more, and sums are worth nothing
};

/// Floats of one exchange among so many ranks: 2 MiB between two, up to where it is faster than NCCL
/// (perf_gpu_exchange), or what takes as long to send to more.
constexpr std::uint32_t exchange_capacity(std::uint32_t size) { return size < 2 ? 0 : (1u << 19) / (size - 1) / 4 * 4; }
/// Bytes of a rank's inbox.
constexpr std::uint64_t exchange_inbox_bytes(std::uint32_t size) {
  return std::uint64_t{2} * size * exchange_capacity(size) * sizeof(std::uint64_t);
}

/// One exchange: number *run * per_run + index. Numbers go round after 2^32, when only a word that was not written
/// since then and waits for that very number could be mistaken.
struct exchange_call {
  exchange_memory memory;
  const std::uint64_t* run = nullptr;  ///< on the device; counts from 1
  std::uint32_t per_run = 0, index = 0;
};

/// `part` [n, hidden] f32 of all ranks, summed in the order of ranks: h = (add ? h : 0) + the sum + bias, then what
/// rms_norm does with it (no gather: bias is stored back). `part` may be h. The bits are those of add_parts and
/// rms_norm. A block per token.
struct exchange_norm_args {
  rms_norm_args norm;
  const float* part;
  bool add;
  exchange_call call;
};
/// Whether it takes so many tokens: n * hidden <= capacity, hidden a multiple of 4 up to 8192.
bool can_exchange_norm(const exchange_memory&, std::uint32_t hidden, std::uint32_t max_tokens);
cudaError_t exchange_norm(const exchange_norm_args&, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                          cudaStream_t);

}  // namespace troupe::kernels::gpu
