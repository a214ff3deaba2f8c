#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "src/cpu/forward.hpp"

namespace troupe::cpu {

/// One kernel call's worth of queries: consecutive tokens of a row, heads that share a key/value head.
struct attention_task {
  std::uint32_t row;       ///< of the batch
  std::uint32_t token;     ///< first token, index into the batch
  std::uint32_t out;       ///< row of the result that the first token's goes to
  std::uint32_t n_tokens;
  std::uint32_t kv_head;
  std::uint32_t head, n_heads;  ///< among all heads
  std::uint32_t partial;   ///< first segment's number in the list of segments
};

/// One segment of a task.
struct attention_part {
  std::uint32_t task, segment;
  std::uint64_t offset;    ///< of its partial result, in floats
};

/// How a batch's attention is cut into pieces that threads can take: tiles of queries; with few tiles over long contexts
/// also segments of keys, whose partial results are merged. Where the cuts are never shows in the result.
class attention_plan {
 public:
  struct shape {
    std::uint32_t n_heads, n_kv_heads, head_dim, window, threads, max_tokens, max_len;
  };
  explicit attention_plan(const shape&);
  /// Floats of partial results that a plan may ask for.
  static std::uint64_t partial_floats(const shape&);

  void build(const step_batch&);

  /// Queries of all tokens; of the wanted outputs only (for the last layer).
  std::span<const attention_task> all() const { return all_; }
  std::span<const attention_task> outputs() const { return outputs_; }
  /// Every row is one token of its own sequence and every key/value head one task, which may rotate and store the key
  /// itself before it attends.
  bool single() const { return single_; }
  /// Not empty: run these, then merge per task. Ascending by task, then segment.
  std::span<const attention_part> parts() const { return parts_; }

 private:
  void add(std::vector<attention_task>&, const step_batch&, std::uint32_t row, std::uint32_t token, std::uint32_t n_tokens,
           std::uint32_t out);
  void split(const step_batch&);

  shape s_;
  std::uint32_t group_;
  std::vector<attention_task> all_, outputs_;
  std::vector<attention_part> parts_;
  bool single_ = false;
};

}  // namespace troupe::cpu
