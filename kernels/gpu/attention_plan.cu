#include <algorithm>
#include <array>
#include <utility>

#include "kernels/gpu/attention_scratch.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr std::uint64_t ceil_div(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }
constexpr std::uint64_t aligned(std::uint64_t bytes) { return (bytes + 255) / 256 * 256; }

/// Units of work (an item for one KV head) that fill the card: two for each of the two blocks that an SM holds.
constexpr std::uint64_t wanted_units(const attention_shape& s) { return std::uint64_t{4} * s.n_sms; }

std::uint64_t max_tiles(const attention_shape& s) {
  return std::uint64_t{s.max_rows} + s.max_tokens / attention_tile_tokens(s);
}

constexpr std::uint32_t n_segments_of(const attention_item& i) { return i.last_segment - i.first_segment; }

/// Long items first, those of equal length in the order that they have, which is what std::stable_sort makes of them.
/// Lengths are few beside items, and all equal in most decode steps: they are counted, not compared.
void longest_first(std::vector<attention_item>& items) {
  const auto longer = [](const attention_item& a, const attention_item& b) {
    return n_segments_of(a) > n_segments_of(b);
  };
  if (std::is_sorted(items.begin(), items.end(), longer)) return;
  std::uint32_t longest = 0;
  for (const attention_item& i : items) longest = std::max(longest, n_segments_of(i));
  std::array<std::uint32_t, 1024> next;  // where the next item of a length goes; of sequences of half a million tokens
  if (longest >= next.size()) return std::stable_sort(items.begin(), items.end(), longer);
  std::fill_n(next.begin(), longest + 1, 0u);
  for (const attention_item& i : items) ++next[n_segments_of(i)];
  std::uint32_t before = 0;
  for (std::uint32_t length = longest + 1; length-- > 0;) before += std::exchange(next[length], before);
  const std::size_t n = items.size();
  items.resize(2 * n);  // the room is kept from step to step
  const auto unsorted = items.begin() + static_cast<std::ptrdiff_t>(n);
  std::copy(items.begin(), unsorted, unsorted);
  for (auto i = unsorted; i != items.end(); ++i) items[next[n_segments_of(*i)]++] = *i;
  items.resize(n);
}

}  // namespace

std::uint32_t max_attention_items(const attention_shape& s) {
  // A tile of n segments becomes ceil(n / length) parts, and length >= all segments * n_kv_heads / wanted.
  return static_cast<std::uint32_t>(max_tiles(s) + ceil_div(wanted_units(s), s.n_kv_heads));
}

std::uint32_t attention_partial_rows(const attention_shape& s) {
  const std::uint64_t row_bytes = std::uint64_t{s.n_kv_heads} * (s.head_dim + 2) * sizeof(float);
  const std::uint64_t tile_rows = std::uint64_t{attention_tile_tokens(s)} * attention_group(s);
  const std::uint64_t all = max_tiles(s) * tile_rows * (ceil_div(s.max_model_len, attention_segment) + 1);
  return static_cast<std::uint32_t>(std::min(all, (std::uint64_t{64} << 20) / row_bytes));
}

attention_scratch_layout layout_attention_scratch(const attention_shape& s) {
  const std::uint64_t rows = std::uint64_t{attention_partial_rows(s)} * s.n_kv_heads;
  attention_scratch_layout l{};
  l.sums = l.counters + aligned(rows * sizeof(std::uint32_t));
  l.values = l.sums + aligned(rows * 2 * sizeof(float));
  l.totals = l.values + aligned(rows * s.head_dim * sizeof(float));
  l.bytes = l.totals;
  if (attention_totals_in_memory(s.head_dim))
    l.bytes +=
        std::uint64_t{s.n_sms} * attention_max_ctas * attention_block_rows(s.head_dim) * s.head_dim * sizeof(float);
  return l;
}

std::uint64_t attention_scratch_bytes(const attention_shape& s) { return layout_attention_scratch(s).bytes; }

void plan_attention(const attention_shape& s, std::span<const row_span> rows, std::vector<attention_item>& items) {
  const std::uint32_t tile_tokens = attention_tile_tokens(s), group = attention_group(s);
  items.clear();
  std::uint64_t n_segments = 0;
  for (const row_span& row : rows)
    for (std::uint32_t t = 0; t < row.n_tokens; t += tile_tokens) {
      const std::uint32_t n = std::min(tile_tokens, row.n_tokens - t), position = row.position + t;
      const std::uint32_t first = attention_first_segment(position, s.window);
      const std::uint32_t last = attention_last_segment(position, n);
      items.push_back({row.slot, row.first + t, n, position, first, last, no_partial, 1});
      n_segments += last - first;
    }
  longest_first(items);

  // A segment costs about the same with few rows (its keys and values must come from memory) and with many (its
  // products take as long), so parts of equal length are equal work.
  const std::uint64_t length = std::max<std::uint64_t>(1, ceil_div(n_segments * s.n_kv_heads, wanted_units(s)));
  const std::uint32_t capacity = attention_partial_rows(s);
  std::uint32_t used = 0;
  const std::size_t n_tiles = items.size();
  for (std::size_t i = 0; i < n_tiles; ++i) {
    const attention_item tile = items[i];
    const std::uint32_t n = n_segments_of(tile);
    if (n <= length) break;  // as all that follow
    const std::uint64_t need = std::uint64_t{n} * tile.n_tokens * group;
    if (used + need > capacity) continue;
    const auto n_parts = static_cast<std::uint32_t>(ceil_div(n, length));
    for (std::uint32_t p = 0; p < n_parts; ++p) {
      attention_item part = tile;
      part.first_segment = tile.first_segment + static_cast<std::uint32_t>(std::uint64_t{n} * p / n_parts);
      part.last_segment = tile.first_segment + static_cast<std::uint32_t>(std::uint64_t{n} * (p + 1) / n_parts);
      part.partial = used;
      part.n_parts = n_parts;
      if (p == 0)
        items[i] = part;
      else
        items.push_back(part);
    }
    used += static_cast<std::uint32_t>(need);
  }
  if (items.size() > n_tiles) longest_first(items);
}

}  // namespace troupe::kernels::gpu
