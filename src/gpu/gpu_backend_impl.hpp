#pragma once
#include <array>
#include <chrono>
#include <deque>
#include <map>
#include <vector>

#include "src/base/recent_times.hpp"
#include "src/gpu/gpu_backend.hpp"
#include "src/gpu/gpu_decoder.hpp"
#include "src/gpu/row_gates.hpp"
#include "src/gpu/slot_admissions.hpp"
#include "src/gpu/step_writer.hpp"
#include "src/model/slot_table.hpp"

namespace troupe::gpu {

/// gpu_backend.cpp takes memory and plans and gives answers, gpu_backend_step.cpp queues what a step runs.
class gpu_backend final : public model::backend {
 public:
  gpu_backend(const model::rank_shape& shape, const gpu_options& o, std::shared_ptr<model::sink_table> sinks,
              std::uint32_t window, bool gates)
      : shape_(shape), options_(o), sinks_(std::move(sinks)), slots_(shape, window, {.gates = gates}), writer_(shape) {
    for (std::vector<slot_id>& d : drawn_) d.reserve(shape.max_slots);
  }

  /// Waits a moment for a step that is still on the card. One that hangs there keeps the memory it uses: freeing would
  /// wait for it, and whoever destroys a lost rank must not hang with it.
  ~gpu_backend() override;

  result<void> take(rank_plan, std::shared_ptr<communicator> group, std::shared_ptr<model::mask_table>);

  const model::rank_shape& shape() const override { return shape_; }
  result<void> launch(std::shared_ptr<const model::step_plan>) override;
  result<bool> poll(model::step_done&) override;

 private:
  using clock = std::chrono::steady_clock;
  static constexpr std::uint32_t turns = slot_admissions::turns;  ///< sets of pinned memory, more than plans in flight

  /// One plan on its way.
  struct flight {
    step_seq seq = 0;
    std::uint32_t turn = 0;
    std::vector<model::row_result> ready;  // rows whose outcome is known already (logits)
    clock::time_point launched;
    std::uint64_t launch_ns = 0;
    bool on_device = false;  // false: nothing to wait for
    bool queued = false;     // while another was on the device
  };
  struct pinned_turn {
    std::byte* inputs;
    kernels::gpu::sample_result* results;
    volatile std::uint64_t* seq;
  };
  struct captured {
    bucket size;
    std::uint32_t turn;
    auto operator<=>(const captured&) const = default;
  };

  result<void> enqueue_step(const model::step_plan_view&, flight&);
  result<void> kernels_of(const bucket&, const step_layout&, std::uint32_t turn, cudaStream_t);
  result<void> capture(const bucket&);
  void await_gates(const model::step_plan_view&, const model::step_batch&, const flight&);
  result<void> update_pages(const model::step_plan_view&, std::uint32_t turn, std::uint32_t inside);
  result<void> logits_rows(const model::step_plan_view&, const model::step_batch&, std::uint32_t first, flight&);
  result<void> wait();
  pinned_turn turn_of(std::uint32_t turn) const;

  model::rank_shape shape_;
  gpu_options options_;
  std::shared_ptr<model::sink_table> sinks_;
  model::slot_table slots_;
  step_writer writer_;
  memory device_, pinned_;
  std::uint64_t pinned_results_ = 0, pinned_seq_ = 0,
                pinned_turn_bytes_ = 0;  // offsets in a turn's memory, and its size
  std::byte* inputs_ = nullptr;
  kernels::gpu::sample_result* results_ = nullptr;
  std::uint64_t* began_ = nullptr;  ///< on the device: when the step that runs began
  void* sample_scratch_ = nullptr;
  memory logits_host_;
  stream stream_;
  std::shared_ptr<communicator> group_;  // null: alone; outlives the graphs that use it
  std::unique_ptr<gpu_decoder> decoder_;
  std::unique_ptr<slot_admissions> admissions_;
  std::unique_ptr<row_gates> gates_;  // null: no gated rows
  std::map<captured, graph_exec> graphs_;
  std::deque<flight> flights_;
  std::array<std::vector<slot_id>, turns> drawn_;  // slots of the results of a flight, in order
  std::vector<kernels::gpu::page_entry> entries_;
  step_seq last_ = 0;
  std::uint32_t polls_ = 0;
  recent_times idle_;             ///< of the card, between steps that were queued while the one before still ran
  std::uint64_t last_ended_ = 0;  ///< by the card's clock
  clock::time_point last_done_;
  bool device_set_ = false;
};

}  // namespace troupe::gpu
