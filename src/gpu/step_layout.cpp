#include "src/gpu/step_layout.hpp"

#include <algorithm>

namespace troupe::gpu {

namespace g = kernels::gpu;

std::uint32_t token_bucket(std::uint32_t n, std::uint32_t most) {
  std::uint32_t b = 1;
  if (n > 16)
    b = n <= 64     ? (n + 7) / 8 * 8
        : n <= 256  ? (n + 31) / 32 * 32
        : n <= 1024 ? (n + 127) / 128 * 128
                    : (n + 511) / 512 * 512;
  else
    while (b < n) b *= 2;
  return std::min(b, most);
}

step_layout::step_layout(bucket b, std::uint32_t max_entries, std::uint32_t n_items)
    : max_page_entries(max_entries), max_items(n_items) {
  std::uint32_t end = 0;
  const auto take = [&end](std::uint32_t size) {
    const std::uint32_t at = end;
    end = (end + size + 15) / 16 * 16;
    return at;
  };
  take(sizeof(g::step_header));
  tokens = take(b.tokens * 4);
  positions = take(b.tokens * 4);
  slots = take(b.tokens * 4);
  gather = take(b.outputs * 4);
  sample_rows = take(b.draws * static_cast<std::uint32_t>(sizeof(g::sample_row)));
  page_entries = take(max_entries * static_cast<std::uint32_t>(sizeof(g::page_entry)));
  items = take(n_items * static_cast<std::uint32_t>(sizeof(g::attention_item)));
  bytes = end;
}

}  // namespace troupe::gpu
