#pragma once
#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace troupe::text::jinja {

/// A stable merge sort that stays within its bounds whatever the comparison answers: templates compare NaN, and a
/// comparison that failed says false from then on. (std::stable_sort promises nothing then, and warns under clang.)
template <class T, class Less>
void sort_stably(std::vector<T>& v, Less less) {
  std::vector<T> from = std::move(v), to;
  for (std::size_t width = 1; width < from.size(); width *= 2) {
    to.clear();
    to.reserve(from.size());
    for (std::size_t start = 0; start < from.size(); start += 2 * width) {
      std::size_t a = start, b = std::min(start + width, from.size());
      const std::size_t a_end = b, b_end = std::min(start + 2 * width, from.size());
      while (a < a_end && b < b_end) to.push_back(std::move(less(from[b], from[a]) ? from[b++] : from[a++]));
      while (a < a_end) to.push_back(std::move(from[a++]));
      while (b < b_end) to.push_back(std::move(from[b++]));
    }
    std::swap(from, to);
  }
  v = std::move(from);
}

}  // namespace troupe::text::jinja
