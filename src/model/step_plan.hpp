#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include <troupe/request.hpp>

#include "src/base/ids.hpp"
#include "src/base/result.hpp"

/// The one message from the scheduler to the ranks: what the next step computes. A plan is a flat, relocatable buffer
/// (offsets, no pointers) so that the same bytes reach every rank, cross a process boundary and can be replayed from a
/// log. It is immutable once built.
///
/// Order of effects on a rank: releases, admits, page deltas, page forks, then the rows.
namespace troupe::model {

enum class plan_kind : std::uint32_t { run, warm_up, stop };

/// Which captured graph may execute the step (GPU). Zero buckets: eager.
struct graph_key {
  std::uint32_t token_bucket = 0;
  std::uint32_t row_bucket = 0;
  std::uint32_t mixed = 0;  ///< 0: decode rows only

  bool operator==(const graph_key&) const = default;
};

/// Binds a slot of the ranks' slot table to a sequence. Everything that sampling needs beyond the logits lives here.
struct slot_admit {
  slot_id slot;
  std::uint32_t flags;              ///< admit_flag bits
  std::uint64_t seed;               ///< key of the counter-based generator, with `choice`
  std::uint32_t choice;
  std::int32_t top_k;               ///< <= 0: all
  float temperature;                ///< 0: greedy
  float top_p;
  float min_p;
  float repetition_penalty;
  float frequency_penalty;
  float presence_penalty;
  std::int32_t adapter;             ///< -1: none
  std::uint32_t prompt_length;      ///< the first prompt_length history tokens count as prompt for the penalties
  std::uint32_t history_offset;     ///< into tokens(): prompt and, after a preemption, the output so far;
  std::uint32_t history_count;      ///<   empty unless a penalty needs it
  std::uint32_t bias_offset;        ///< into biases()
  std::uint32_t bias_count;
};
struct logit_bias_entry {
  token_id token;
  float addend;
};

enum class row_kind : std::uint32_t { decode, chunk, verify, embed };
enum class row_input : std::uint32_t { literal, last_token };  ///< ids in the plan, or what the slot sampled last
enum class row_output : std::uint32_t { none, sample, sample_logprobs, logits, embedding };
enum class row_gate : std::uint32_t { none, mask };            ///< mask: sampling waits for a mask named by `gate_id`

/// A run of consecutive positions of one sequence in this step.
struct plan_row {
  slot_id slot;
  row_kind kind;
  row_input input;
  row_output output;        ///< sample: after the last token of the row; logits: every token's logits go to sink `sink`
  row_gate gate;
  std::uint32_t position;   ///< absolute position of the row's first token
  std::uint32_t n_tokens;
  std::uint32_t token_offset;  ///< literal input: into tokens()
  std::uint32_t n_drafts;      ///< verify: how many of the literals are drafts
  std::uint32_t sink;          ///< logits or embedding: number of the registered sink
  std::uint32_t gate_id;
  std::uint32_t n_logprobs;
};

/// Entry `index` of the slot's page table in KV group `group` becomes `page`.
struct page_delta {
  slot_id slot;
  std::uint32_t group;
  std::uint32_t index;
  page_id page;
};

/// Copies the first n_tokens tokens of page `from` to page `to` before the rows run.
struct page_fork {
  std::uint32_t group;
  page_id from;
  page_id to;
  std::uint32_t n_tokens;
};

/// Read access to the bytes of a plan. Cheap to copy; the bytes must outlive it.
class step_plan_view {
 public:
  /// Checks magic, sizes, section bounds and every offset in a record; does not know the model's limits.
  static result<step_plan_view> parse(std::span<const std::byte> bytes);

  step_seq seq() const;
  plan_kind kind() const;
  graph_key graph() const;
  std::span<const slot_id> releases() const;
  std::span<const slot_admit> admits() const;
  std::span<const logit_bias_entry> biases() const;
  std::span<const page_delta> deltas() const;
  std::span<const page_fork> forks() const;
  std::span<const plan_row> rows() const;
  std::span<const token_id> tokens() const;

  std::span<const token_id> tokens_of(const plan_row& r) const { return tokens().subspan(r.token_offset, r.n_tokens); }
  std::uint32_t n_tokens() const;  ///< sum over the rows

 private:
  friend class step_plan;
  explicit step_plan_view(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

/// A plan that owns its bytes.
class step_plan {
 public:
  explicit step_plan(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
  step_plan_view view() const { return step_plan_view(bytes_); }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

/// Collects the sections of a plan; `build` lays them out. Reusable: `clear` keeps the capacity.
class plan_builder {
 public:
  std::vector<slot_id> releases;
  std::vector<slot_admit> admits;
  std::vector<logit_bias_entry> biases;
  std::vector<page_delta> deltas;
  std::vector<page_fork> forks;
  std::vector<plan_row> rows;
  std::vector<token_id> tokens;
  graph_key graph;

  /// Fills a slot_admit's sampling fields and appends its biases. `seed` is the resolved one.
  slot_admit& admit(slot_id slot, const sampling_params&, std::uint64_t seed);
  bool empty() const { return rows.empty() && releases.empty() && admits.empty() && deltas.empty() && forks.empty(); }
  void clear();
  std::shared_ptr<const step_plan> build(step_seq, plan_kind = plan_kind::run) const;
};

/// Why a row drew no token: its request ends with an error.
enum row_flag : std::uint32_t {
  row_failed = 1,           ///< the logits were not finite
  row_nothing_allowed = 2,  ///< the row's mask allowed no token
  row_gate_closed = 4,      ///< the row's mask did not come
};

/// What one row produced. Rows without output are absent.
struct row_result {
  slot_id slot;
  token_id token;
  std::uint32_t flags;  ///< row_flag bits; with any of them the token means nothing
  float logprob;
};

/// A rank's answer to a plan.
struct step_done {
  step_seq seq = 0;
  std::vector<row_result> rows;
  std::uint64_t device_ns = 0;  ///< time of the forward and the sampling
  std::uint64_t launch_ns = 0;  ///< the rank's thread in backend::launch
};

}  // namespace troupe::model
