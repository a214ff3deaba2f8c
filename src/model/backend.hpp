#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/model/step_plan.hpp"

namespace troupe::model {

/// A KV group: layers of equal window, shape and type that share a page table per sequence.
struct kv_group {
  std::uint32_t window = 0;      ///< 0: full attention; else a page may be freed when it lies wholly behind the window
  std::uint32_t n_layers = 0;
  std::uint64_t page_bytes = 0;  ///< of one page of page_tokens tokens, all layers of the group
};

/// What the scheduler must know of the ranks; equal on all of them.
struct rank_shape {
  std::uint32_t vocab = 0;
  std::uint32_t max_model_len = 0;        ///< tokens in one sequence, prompt and output
  std::uint32_t max_slots = 0;            ///< sequences that can run at once
  std::uint32_t max_batched_tokens = 0;   ///< tokens in one step
  std::uint32_t depth = 1;                ///< plans in flight
  std::vector<kv_group> groups;
  std::vector<std::uint32_t> n_pages;     ///< per group
  std::vector<std::uint32_t> graph_sizes; ///< rows of the decode steps that can be captured as graphs, ascending
};

/// Where logits rows of a plan go; shared by whoever submits a request and the ranks of one process.
class sink_table {
 public:
  virtual ~sink_table() = default;
  virtual std::shared_ptr<logits_sink> find(std::uint32_t sink) = 0;  ///< null: the request has gone, drop the row
};

/// The forward pass and sampler of one rank. One thread calls it; it decides nothing, reads no clock but for timing, and
/// allocates nothing after construction in a step.
class backend {
 public:
  virtual ~backend() = default;
  virtual const rank_shape& shape() const = 0;
  /// Takes the next plan (seq = last + 1, at most shape().depth in flight). A failure is fatal to the rank.
  virtual result<void> launch(std::shared_ptr<const step_plan>) = 0;
  /// True when the oldest launched plan is done, with its answer. A backend that computes on the calling thread (CPU)
  /// does the work here.
  virtual result<bool> poll(step_done&) = 0;
};

/// The ranks of one engine. Of several, each waits for the others within every step.
struct rank_group {
  std::vector<std::unique_ptr<backend>> ranks;
  /// Whoever waits for another rank, now or later, returns with a failure. Any thread, any number of times, also when the
  /// backends have gone; must not throw. Empty: nobody waits.
  std::function<void()> abort;
  /// The rank that the others are waiting for. Any thread. Empty: that cannot be seen.
  std::function<std::optional<std::uint32_t>()> awaited;
  /// From then on calls `lost` when a rank of another process is lost while nobody polls it: on a thread of its own, until
  /// `leave` or `abort`. Empty: there are no such ranks.
  std::function<void(std::function<void(std::uint32_t rank, std::string what)> lost)> watch;
  /// Ranks of other processes leave in order, or are ended: after the last call of any backend. Bounded; must not throw.
  std::function<void()> leave;
};

}  // namespace troupe::model
