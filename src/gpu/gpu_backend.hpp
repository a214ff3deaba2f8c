#pragma once
#include <memory>

#include "src/gpu/communicator.hpp"
#include "src/gpu/rank_plan.hpp"
#include "src/model/backend.hpp"
#include "src/model/open_model.hpp"
#include "src/model/token_mask.hpp"

/// The GPU rank: a forward pass on one card, two plans in flight.
namespace troupe::gpu {

/// Bytes of one KV page of a rank, all its layers. Errors: unsupported (the model cannot be divided so).
result<std::uint64_t> page_bytes(const model::model&, const gpu_options&);

/// Takes all memory that was planned, loads the weights: of a group's rank (options.place) its part of the model. Thread:
/// the rank's from then on, whose current device it sets. Depth 2. `sinks` may be null when no plan has logits rows. Every
/// rank of a group must be planned with the same n_pages and max_model_len and gets its end of the group, which whoever
/// sees a rank lost aborts. Without `masks`, plans with gated rows are refused; with them poll() hands over the masks that
/// have become ready, on every rank. Errors: out_of_memory, not_found, rank_failed.
result<std::unique_ptr<model::backend>> make_gpu_backend(rank_plan, const gpu_options&,
                                                         std::shared_ptr<model::sink_table> sinks,
                                                         std::shared_ptr<communicator> group = nullptr,
                                                         std::shared_ptr<model::mask_table> masks = nullptr);
/// The same, planned here.
result<std::unique_ptr<model::backend>> make_gpu_backend(std::shared_ptr<const model::model>, const gpu_options&,
                                                         std::shared_ptr<model::sink_table> sinks,
                                                         std::shared_ptr<communicator> group = nullptr,
                                                         std::shared_ptr<model::mask_table> masks = nullptr);

}  // namespace troupe::gpu
