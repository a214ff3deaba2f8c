#pragma once
#include <cstdint>
#include <memory>

#include "src/base/ids.hpp"
#include "src/cpu/cpu_backend.hpp"
#include "src/cpu/thread_pool.hpp"
#include "src/model/slot_table.hpp"

namespace troupe::cpu {

using model::step_batch;
using model::step_output;
using model::step_row;

/// A decoder's forward pass with its KV cache. The batch has been checked: every index in it is valid,
/// and every token an id.
class forward {
 public:
  virtual ~forward() = default;
  /// Runs all tokens through the layers, writing keys and values of each; keeps the hidden states of the outputs.
  /// Errors, as of `logits`: rank_failed (the group of ranks cannot go on).
  virtual result<void> run(const step_batch&) = 0;
  /// Logits of outputs [first, first + n) of the last batch: out is [n][vocab], filled on rank 0; on others partly.
  virtual result<void> logits(std::uint32_t first, std::uint32_t n, float* out) = 0;
  /// Copies a KV page.
  virtual void fork(page_id from, page_id to) = 0;
};

/// The oracle: plain loops in float32 (sums in double) over weights that are dequantized row by row when needed. Kept
/// simple for good; every faster path is compared with it.
result<std::unique_ptr<forward>> make_reference(std::shared_ptr<const model::model>, const model::rank_shape&,
                                                thread_pool&);
/// Bytes of its scratch, and of one KV page.
memory_plan plan_reference(const model::model_config&, const model::rank_shape&);

}  // namespace troupe::cpu
