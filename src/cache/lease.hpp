#pragma once
#include <cstdint>
#include <limits>
#include <vector>

#include "src/base/ids.hpp"

namespace troupe::cache {

/// Page ids of each KV group; index = group. Page ids of different groups are unrelated.
using page_lists = std::vector<std::vector<page_id>>;

/// A hole in a page table: the page lies behind the group's window and has been given up.
inline constexpr page_id no_page = std::numeric_limits<page_id>::max();

inline std::size_t n_pages_in(const page_lists& lists) {
  std::size_t n = 0;
  for (const auto& l : lists) n += l.size();
  return n;
}

}  // namespace troupe::cache
