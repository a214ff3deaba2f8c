#pragma once
#include <cstdint>
#include <memory>

#include "src/gpu/gpu_decoder.hpp"
#include "src/gpu/slot_admissions.hpp"

/// What a rank takes of its card, planned to the byte before it is taken.
namespace troupe::gpu {

/// Offsets in the one piece of device memory of a rank; the weights lie at its start.
struct rank_space {
  gpu_decoder::space decoder;
  slot_admissions::space slots;
  std::uint64_t inputs, inputs_bytes, results, began, sample_scratch, bytes;
};

struct rank_plan {
  device_info card;
  std::shared_ptr<const model::model> local;  ///< what this rank holds of the model
  model::shard shard;
  device_weights weights;
  model::rank_shape shape;
  rank_space at;
  memory_plan bytes;
};

/// Checks options against the arithmetic's limits and the card's free memory, and turns what is left into KV pages;
/// takes nothing but makes the card current. Errors: not_found, unsupported, invalid_argument, out_of_memory.
result<rank_plan> plan_rank(std::shared_ptr<const model::model>, const gpu_options&);

/// How the inputs of a step of this size lie.
step_layout step_layout_of(const bucket&, const kernels::gpu::attention_shape&);

}  // namespace troupe::gpu
