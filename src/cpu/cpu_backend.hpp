#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "kernels/cpu/isa.hpp"
#include "src/base/result.hpp"
#include "src/group/collective.hpp"
#include "src/model/backend.hpp"
#include "src/model/open_model.hpp"
#include "src/model/token_mask.hpp"

/// The CPU rank, alone or one of a tensor-parallel group: a forward pass over SIMD kernels on a pool of compute threads.
namespace troupe::cpu {

enum class kv_dtype : std::uint8_t { f16, bf16, f32 };

struct cpu_options {
  std::uint32_t threads = 0;             ///< of the rank, the caller's included; 0: one per processor available
  kernels::cpu::isa isa = kernels::cpu::best_isa();
  kv_dtype kv = kv_dtype::f16;
  std::uint32_t max_slots = 64;
  std::uint32_t max_batched_tokens = 512;
  std::uint32_t max_model_len = 0;       ///< 0: the model's context
  std::uint32_t n_pages = 0;             ///< KV pages of page_tokens tokens; 0: max_slots sequences of max_model_len, at most 1 GiB
  std::chrono::milliseconds mask_patience = model::mask_patience;  ///< how long a step waits for its rows' masks
  bool reference = false;                ///< scalar float32 over dequantized weights: slow, the oracle of the fast path
};

/// Bytes a backend will take, known before it takes them.
struct memory_plan {
  std::uint64_t weights = 0;      ///< packed copies; tensors used in place in the mapped file are not counted
  std::uint64_t kv = 0;           ///< n_pages * page_bytes
  std::uint64_t activations = 0;  ///< all scratch of a step, logits included
  std::uint64_t slots = 0;        ///< page tables, penalty counts (virtual; touched when used)
  std::uint64_t page_bytes = 0;   ///< one KV page, all layers
  std::uint64_t total() const { return weights + kv + activations + slots; }
  std::string describe() const;   ///< one line for a person
};

/// What the make_cpu_backend of n_ranks ranks would take together, each with these options; page_bytes is then of one page
/// on all ranks, of which each holds its own heads. Also the way to turn a memory budget into n_pages. Errors:
/// invalid_argument, unsupported (a model that cannot be divided so).
result<memory_plan> plan_memory(const model::model&, const cpu_options&, std::uint32_t n_ranks = 1);

/// Packs the weights and takes all memory. `sinks` may be null when no plan has logits rows. Without `masks`, plans with
/// gated rows are refused; with them poll() waits for a mask that is late. The backend computes on the thread that calls
/// poll(), with its own workers beside; depth 1. Errors: invalid_argument, unsupported, out_of_memory.
///
/// With a group: this rank's part of the whole model; all ranks get the same model, options (but for threads and isa) and
/// plans, and give the same bits as one rank alone. Only rank 0 answers with tokens, fills sinks and waits for masks. A
/// step waits for the other ranks; when the group fails, so do launch or poll.
result<std::unique_ptr<model::backend>> make_cpu_backend(std::shared_ptr<const model::model>, const cpu_options&,
                                                         std::shared_ptr<model::sink_table> sinks,
                                                         std::shared_ptr<group::collective> = nullptr,
                                                         std::shared_ptr<model::mask_table> masks = nullptr);

}  // namespace troupe::cpu
