#pragma once
#include <cstdint>

#include "kernels/gpu/launch.hpp"

/// What a step brings from the host, as the first kernel of a step finds it in pinned memory and every later one on the
/// device. Plain data of fixed layout: a header and arrays at fixed offsets, so that a captured graph never changes.
namespace troupe::kernels::gpu {

/// A token's input: an id, or `last_token_of(slot)` for what the slot drew last, which only the device knows.
using input_token = std::int32_t;
TROUPE_HOST_DEVICE constexpr input_token last_token_of(std::uint32_t slot) {
  return -1 - static_cast<std::int32_t>(slot);
}

/// Entry `index` of a slot's page table becomes `page`.
struct page_entry {
  std::uint32_t slot, index, page;
};

/// A run of consecutive positions of one sequence.
struct row_span {
  std::uint32_t slot, position, n_tokens, first;  ///< first: its first token among the step's tokens
};

struct step_header {
  std::uint64_t seq;  ///< number of the plan
  std::uint64_t run;  ///< number of this step among those that run something, from 1
  std::uint32_t n_tokens, n_rows;
  std::uint32_t n_outputs, n_draws;  ///< outputs: tokens whose logits are wanted; the first n_draws are sampled
  std::uint32_t n_page_entries, n_attention_items;
};

/// Reads `n_words` 32-bit words (a multiple of 4, 16-byte aligned) of pinned host memory into device memory. 2.5 us for
/// 16 KB. `began` (null: nobody asks): when it started, by the card's clock.
cudaError_t pull_inputs(const void* pinned, void* device, std::uint32_t n_words, cudaStream_t,
                        std::uint64_t* began = nullptr);

/// page_table[entry.slot * table_pages + entry.index] = entry.page for the first *n entries; at most max_n.
cudaError_t update_page_table(const page_entry* entries, const std::uint32_t* n, std::uint32_t max_n,
                              std::uint32_t* page_table, std::uint32_t table_pages, cudaStream_t);

}  // namespace troupe::kernels::gpu
