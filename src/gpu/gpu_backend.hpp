#pragma once
#include <memory>

#include "src/gpu/gpu_options.hpp"
#include "src/model/backend.hpp"
#include "src/model/open_model.hpp"
#include "src/model/token_mask.hpp"

/// The GPU rank: a forward pass on one card, two plans in flight.
namespace troupe::gpu {

/// What make_gpu_backend would take of the card's free memory; also makes the card current. Errors: not_found,
/// unsupported, invalid_argument, out_of_memory.
result<memory_plan> plan_memory(std::shared_ptr<const model::model>, const gpu_options&);

/// Bytes of one KV page, all layers.
std::uint64_t page_bytes(const model::model&, const gpu_options&);

/// Takes all memory, loads the weights. Thread: the rank's from then on, whose current device it sets. Depth 2. `sinks`
/// may be null when no plan has logits rows. Without `masks`, plans with gated rows are refused; with them poll() hands
/// over the masks that have become ready. Errors as plan_memory, and rank_failed.
result<std::unique_ptr<model::backend>> make_gpu_backend(std::shared_ptr<const model::model>, const gpu_options&,
                                                         std::shared_ptr<model::sink_table> sinks,
                                                         std::shared_ptr<model::mask_table> masks = nullptr);

}  // namespace troupe::gpu
