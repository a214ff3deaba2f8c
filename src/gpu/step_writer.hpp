#pragma once
#include <span>
#include <vector>

#include "kernels/gpu/attention.hpp"
#include "src/gpu/step_layout.hpp"
#include "src/model/slot_table.hpp"

namespace troupe::gpu {

/// What the host works out of a step before anything runs: its inputs, as the card pulls them. Knows no device; the
/// memory written to is whoever's. Call in the order of the functions below; allocates nothing after construction.
class step_writer {
 public:
  explicit step_writer(const model::rank_shape&);

  /// Puts the outputs in order: those that draw first.
  void order(const model::step_plan_view&, const model::step_batch&);
  /// Indices into step_batch::outputs; the first drawn().size() draw.
  std::span<const std::uint32_t> outputs() const { return order_; }
  /// The slot of each draw.
  std::span<const slot_id> drawn() const { return drawn_; }

  /// Divides the batch's attention into items.
  void divide(const kernels::gpu::attention_shape&, const model::step_batch&);

  /// Everything to `to`, which has l.bytes, and counts the steps: once for each that runs.
  void write(const model::step_plan_view&, const model::step_batch&, std::span<const kernels::gpu::page_entry>,
             const step_layout& l, std::byte* to);

 private:
  std::vector<std::uint32_t> order_;
  std::vector<slot_id> drawn_;
  std::vector<kernels::gpu::row_span> rows_;
  std::vector<kernels::gpu::attention_item> items_;
  std::uint64_t runs_ = 0;
};

}  // namespace troupe::gpu
