#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "src/model/step_plan.hpp"

namespace troupe::sched {

/// Which sizes of decode steps the ranks have captured as graphs: the same book for all of them, since it is part of the
/// plans. A size runs eagerly once, then a warm_up plan captures it; plans are executed in order, so what a plan behind it
/// says is true by then.
class graph_book {
 public:
  /// `sizes`: ascending; empty where ranks have no graphs. `all_at_once`: capture every size before it is met.
  explicit graph_book(std::vector<std::uint32_t> sizes, bool all_at_once = false) {
    for (std::uint32_t n : sizes) entries_.push_back({n, all_at_once ? state::wanted : state::unseen});
  }

  /// The key for a step of these rows; none if it is not one of single tokens to be drawn, is too large, or its size has not
  /// been captured yet.
  model::graph_key key_for(std::span<const model::plan_row> rows) {
    if (rows.empty()) return {};
    for (const model::plan_row& r : rows)
      if (r.kind != model::row_kind::decode || r.n_tokens != 1 || r.gate != model::row_gate::none ||
          (r.output != model::row_output::sample && r.output != model::row_output::sample_logprobs))
        return {};
    const auto e = std::lower_bound(entries_.begin(), entries_.end(), rows.size(),
                                    [](const entry& a, std::size_t n) { return a.size < n; });
    if (e == entries_.end()) return {};
    if (e->is == state::captured) return {e->size, e->size, 0};
    e->is = state::wanted;
    return {};
  }

  /// A size to capture now, which counts as captured from here on.
  std::optional<model::graph_key> next() {
    const auto e = std::find_if(entries_.begin(), entries_.end(), [](const entry& a) { return a.is == state::wanted; });
    if (e == entries_.end()) return std::nullopt;
    e->is = state::captured;
    return model::graph_key{e->size, e->size, 0};
  }

 private:
  enum class state : std::uint8_t { unseen, wanted, captured };
  struct entry {
    std::uint32_t size;
    state is;
  };
  std::vector<entry> entries_;
};

}  // namespace troupe::sched
