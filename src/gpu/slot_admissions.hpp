#pragma once
#include <cstdint>
#include <span>

#include "kernels/gpu/sample.hpp"
#include "src/gpu/device.hpp"
#include "src/model/backend.hpp"
#include "src/model/step_plan.hpp"

namespace troupe::gpu {

/// The device's table of what each slot draws with, and the way of a plan's admissions into it. Admissions are rare
/// beside steps, so they are never part of a graph, but kernels before the step. These are few, however many slots a
/// plan admits, for the card has nothing else to do meanwhile: one takes all entries and biases out of pinned memory.
class slot_admissions {
 public:
  static constexpr std::uint32_t max_biases = 1024;  ///< per slot

  struct space {
    std::uint64_t sampling, biases, counts, last_token;
  };
  static space lay_out(layout&, const model::rank_shape&);
  static result<slot_admissions> make(const model::rank_shape&, const space&, std::byte* base);

  /// What the staging memory of a plan holds. A slot's biases are cut to max_biases and its history to `tokens`, so
  /// that any admission fits alone.
  struct room {
    std::uint32_t slots, biases, tokens;
  };
  static room room_of(const model::rank_shape&);
  /// How many of the admissions, from the first on, lie there together.
  static std::size_t fitting(std::span<const model::slot_admit>, const room&);

  /// Enqueues what the plan admits. `turn`: which staging memory; the plan that used it last must be done. Waits for
  /// the stream only where the admissions do not fit the room together: then they go in pieces that do.
  result<void> admit(const model::step_plan_view&, std::uint32_t turn, cudaStream_t);
  /// Would `admit` wait for the stream?
  bool waits(const model::step_plan_view& plan) const { return fitting(plan.admits(), room_) < plan.admits().size(); }

  const kernels::gpu::slot_sampling* sampling() const { return sampling_; }
  const kernels::gpu::bias_entry* biases() const { return biases_; }
  std::uint32_t* counts() const { return counts_; }
  std::int32_t* last_token() const { return last_token_; }

  static constexpr std::uint32_t turns = 4;

 private:
  result<void> enqueue(const model::step_plan_view&, std::span<const model::slot_admit> piece, std::uint32_t turn,
                       cudaStream_t);

  room room_{};
  std::uint32_t vocab_ = 0;
  memory pinned_;  // [turns] of entries, biases, count_resets, the number of these, and histories
  std::uint64_t turn_bytes_ = 0, biases_at_ = 0, resets_at_ = 0, n_resets_at_ = 0, history_at_ = 0;
  kernels::gpu::slot_sampling* sampling_ = nullptr;
  kernels::gpu::bias_entry* biases_ = nullptr;
  std::uint32_t* counts_ = nullptr;
  std::int32_t* last_token_ = nullptr;
};

}  // namespace troupe::gpu
