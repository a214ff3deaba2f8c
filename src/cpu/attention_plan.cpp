#include "src/cpu/attention_plan.hpp"

#include <algorithm>

#include "kernels/cpu/attention.hpp"

namespace troupe::cpu {

using kernels::cpu::max_tile_rows;
using kernels::cpu::segment_tokens;

namespace {

constexpr std::uint64_t most_partial_floats = 8u << 20;
constexpr std::uint32_t tasks_per_thread = 4;  // fewer tasks than this are cut further

}  // namespace

attention_plan::attention_plan(const shape& s) : s_(s), group_(s.n_heads / s.n_kv_heads) {
  const std::size_t per_token = std::size_t{s.n_kv_heads} * ((group_ + max_tile_rows - 1) / max_tile_rows);
  all_.reserve(s.max_tokens * per_token);
  outputs_.reserve(s.max_tokens * per_token);
  parts_.reserve(partial_floats(s) / kernels::cpu::partial_floats(1, s.head_dim));
}

std::uint64_t attention_plan::partial_floats(const shape& s) {
  if (s.threads == 1) return 0;
  const std::uint64_t segments = s.max_len / segment_tokens + 1;
  return std::min(most_partial_floats, tasks_per_thread * s.threads * segments *
                                           kernels::cpu::partial_floats(max_tile_rows, s.head_dim));
}

void attention_plan::build(const step_batch& batch) {
  all_.clear();
  outputs_.clear();
  parts_.clear();
  single_ = group_ <= max_tile_rows;
  for (std::uint32_t row = static_cast<std::uint32_t>(batch.rows.size()); row-- > 0;) {
    const step_row& r = batch.rows[row];
    single_ = single_ && r.n_tokens == 1;
    for (std::uint32_t i = 0; i < row && single_; ++i) single_ = batch.rows[i].slot != r.slot;
    // Later tokens see more keys: the dear tasks go first, so that threads finish together.
    const std::uint32_t step = std::max(1u, max_tile_rows / group_);
    for (std::uint32_t last = r.n_tokens; last > 0;) {
      const std::uint32_t n = (last - 1) % step + 1;
      last -= n;
      add(all_, batch, row, r.first + last, n, r.first + last);
    }
  }
  const auto n_outputs = static_cast<std::uint32_t>(batch.outputs.size());
  for (std::uint32_t i = 0; i < n_outputs; ++i)
    add(outputs_, batch, batch.row_of[batch.outputs[i].token], batch.outputs[i].token, 1, i);
  split(batch);
}

void attention_plan::add(std::vector<attention_task>& to, const step_batch&, std::uint32_t row, std::uint32_t token,
                         std::uint32_t n_tokens, std::uint32_t out) {
  for (std::uint32_t kv = 0; kv < s_.n_kv_heads; ++kv)
    for (std::uint32_t h = 0; h < group_; h += max_tile_rows)
      to.push_back({row, token, out, n_tokens, kv, kv * group_ + h, std::min(group_ - h, max_tile_rows), 0});
}

void attention_plan::split(const step_batch& batch) {
  if (s_.threads == 1 || all_.size() >= std::size_t{tasks_per_thread} * s_.threads) return;
  const std::uint64_t room = partial_floats(s_);
  std::uint64_t floats = 0;
  bool worth = false;
  for (std::uint32_t i = 0; i < all_.size(); ++i) {
    attention_task& t = all_[i];
    const std::uint32_t position = batch.positions[t.token], end = position + t.n_tokens;
    const std::uint32_t first = s_.window && position >= s_.window ? (position - s_.window + 1) / segment_tokens : 0;
    const std::uint32_t last = (end + segment_tokens - 1) / segment_tokens;
    worth = worth || last - first > 1;
    t.partial = static_cast<std::uint32_t>(parts_.size());
    for (std::uint32_t s = first; s < last; ++s) {
      const std::uint64_t size = kernels::cpu::partial_floats(t.n_tokens * t.n_heads, s_.head_dim);
      if (floats + size > room) {
        parts_.clear();
        return;
      }
      parts_.push_back({i, s, floats});
      floats += size;
    }
  }
  if (!worth) parts_.clear();
}

}  // namespace troupe::cpu
