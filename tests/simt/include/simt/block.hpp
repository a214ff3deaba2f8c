#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "simt/vectors.hpp"

/// What a thread of a kernel can ask of its block. Every thread is a fiber; those of a block run on one thread of the
/// operating system, one at a time, until they wait for each other.
namespace simt {

/// The order in which threads that could run do run: a barrier that is missing shows in one of them. Asynchronous
/// copies come as late as they may in `forward`, at once in `reversed`, and either way in `shuffled`.
enum class order { forward, reversed, shuffled };
/// Of all launches from now on; at first what TROUPE_SIMT_ORDER says: "forward", "reversed" or the seed of a shuffle.
void set_order(order, std::uint64_t seed = 0);

/// What the hardware would not survive, or where its behaviour is undefined; ends the block.
[[noreturn]] void fault(const std::string& what);

/// Runs one block to its end; `body` is the kernel with its arguments. Empty, or what went wrong.
std::string run_block(const std::function<void()>& body, dim3 grid, dim3 block, uint3 index, std::size_t shared_bytes);

// ---- of the current thread

enum class vote { none, any, all };
/// Waits for all threads of the block that have not ended. The vote's result over all of them.
bool meet_block(vote kind, bool mine);

/// One lane's part in an operation of its warp: both point to memory of the lane.
struct lane_part {
  const void* in = nullptr;
  void* out = nullptr;
};
/// Makes the outputs of `lanes` from their inputs.
using warp_operation = void (*)(std::uint32_t lanes, lane_part (&parts)[32]);
/// Waits for those lanes of `mask` that have not ended; whoever comes last makes everybody's output. All lanes of a
/// mask must ask for the same operation.
void meet_warp(const char* name, std::uint32_t mask, warp_operation, const void* in, void* out);

/// Lets others run: whoever waits for memory to change calls it between two looks.
void pause();

/// Dynamic shared memory: where it lies, what an address of the instructions is, and back. Faults where an access does
/// not lie in it, or is not aligned to its size.
void* dynamic_shared_memory();
std::uint32_t shared_address(const void*);
void* shared_memory_at(std::uint32_t address, std::size_t bytes, std::size_t alignment);

/// Copies `bytes` and zeros up to `size`, at a time between now and the wait for the group.
void copy_later(std::uint32_t to, const void* from, std::size_t bytes, std::size_t size);
void end_copy_group();
void await_copy_groups(std::size_t pending);

}  // namespace simt
