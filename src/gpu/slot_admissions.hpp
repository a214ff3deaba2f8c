#pragma once
#include <cstdint>

#include "kernels/gpu/sample.hpp"
#include "src/gpu/device.hpp"
#include "src/model/backend.hpp"
#include "src/model/step_plan.hpp"

namespace troupe::gpu {

/// The device's table of what each slot draws with, and the way of a plan's admissions into it. Admissions are rare
/// beside steps, so they are plain copies and kernels before the step, never part of a graph.
class slot_admissions {
 public:
  static constexpr std::uint32_t max_biases = 1024;  ///< per slot

  struct space {
    std::uint64_t sampling, biases, counts, last_token;
  };
  static space lay_out(layout&, const model::rank_shape&);
  static result<slot_admissions> make(const model::rank_shape&, const space&, std::byte* base);

  /// Enqueues what the plan admits. `turn`: which staging memory; the plan that used it last must be done. Waits for
  /// the stream only where one plan's admissions do not fit the staging memory, which holds `batch` and one history.
  result<void> admit(const model::step_plan_view&, std::uint32_t turn, cudaStream_t);
  /// Would `admit` wait for the stream?
  static bool waits(const model::step_plan_view&);

  const kernels::gpu::slot_sampling* sampling() const { return sampling_; }
  const kernels::gpu::bias_entry* biases() const { return biases_; }
  std::uint32_t* counts() const { return counts_; }
  std::int32_t* last_token() const { return last_token_; }

  static constexpr std::uint32_t turns = 4;

 private:
  struct staged {  // in pinned memory
    kernels::gpu::slot_sampling sampling;
    kernels::gpu::bias_entry biases[max_biases];
  };
  static constexpr std::uint32_t batch = 16;  // admissions between two waits

  model::rank_shape shape_;
  memory pinned_;  // [turns] of staged[batch], count_reset, its count, history[max_model_len]
  std::uint64_t turn_bytes_ = 0, reset_at_ = 0, history_at_ = 0;
  kernels::gpu::slot_sampling* sampling_ = nullptr;
  kernels::gpu::bias_entry* biases_ = nullptr;
  std::uint32_t* counts_ = nullptr;
  std::int32_t* last_token_ = nullptr;
};

}  // namespace troupe::gpu
