#pragma once
#include <cstdint>

#include "kernels/gpu/attention.hpp"
#include "kernels/gpu/sample.hpp"
#include "kernels/gpu/step_inputs.hpp"

namespace troupe::gpu {

/// How large a step may be: what the grids of its kernels are sized for. A captured graph serves every step that fits.
struct bucket {
  std::uint32_t tokens = 0, outputs = 0, draws = 0;
  bool operator==(const bucket&) const = default;
  auto operator<=>(const bucket&) const = default;
};

/// The bucket of a step: decode steps in the sizes that graphs are captured for, others rounded so that few differ.
std::uint32_t token_bucket(std::uint32_t n_tokens, std::uint32_t most);

/// Where the arrays of a step's inputs lie, in pinned memory and on the device alike: a function of the bucket.
struct step_layout {
  step_layout(bucket, std::uint32_t max_page_entries, std::uint32_t max_items);

  std::uint32_t tokens, positions, slots, gather, sample_rows, page_entries, items, bytes;  ///< offsets in bytes
  std::uint32_t max_page_entries, max_items;

  template <class T>
  static T* at(std::byte* base, std::uint32_t offset) {
    return reinterpret_cast<T*>(base + offset);
  }
  static kernels::gpu::step_header* header(std::byte* base) {
    return reinterpret_cast<kernels::gpu::step_header*>(base);
  }
  std::uint32_t words() const { return bytes / 4; }
};

}  // namespace troupe::gpu
