#pragma once
#include <cstdint>

#include "kernels/common/floats.hpp"

/// How a product's K is cut, which fixes the bits of its result, whatever the tiles of the kernel that computes it.
namespace troupe::kernels::gpu {

inline constexpr std::uint32_t max_segments = 8, block_columns = 32;

/// The columns are cut into at most eight segments of this many, the last ones shorter or missing. Whole blocks of 32:
/// what one 16-byte load per lane covers.
TROUPE_HOST_DEVICE constexpr std::uint32_t segment_columns(std::uint32_t cols) {
  return (cols + max_segments * block_columns - 1) / (max_segments * block_columns) * block_columns;
}
TROUPE_HOST_DEVICE constexpr std::uint32_t segment_count(std::uint32_t cols) {
  return (cols + segment_columns(cols) - 1) / segment_columns(cols);
}

}  // namespace troupe::kernels::gpu
