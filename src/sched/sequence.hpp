#pragma once
#include <algorithm>
#include <compare>
#include <cstdint>
#include <limits>
#include <vector>

#include "src/cache/lease.hpp"
#include "src/sched/request_record.hpp"

namespace troupe::sched {

inline constexpr slot_id no_slot = std::numeric_limits<slot_id>::max();

/// Who goes first, and who gives way last.
struct run_order {
  std::int32_t priority = 0;
  std::uint64_t arrival = 0;
  auto operator<=>(const run_order&) const = default;
};

enum class phase : std::uint8_t {
  waiting,   ///< in the queue, without a slot; may hold pages (a prefix hit, or what it kept while it was parked)
  running,   ///< holds a slot and may be planned
  parked,    ///< the stream has no credit; may hold a slot and pages
  settling,  ///< preempted or parked no more, and tokens of submitted plans are still to come: then it waits again
};

/// The pages of a sequence in one KV group; no_page where the page lies behind the window.
struct page_table {
  std::vector<page_id> pages;
  std::uint32_t first_live = 0;  ///< entries before it are no_page
};

/// A request in the scheduler, from submit to its last event.
///
/// Positions [0, computed) are in submitted plans or came from the cache, [0, confirmed) are known to be done.
/// tokens.size() is what is known, planned_length() what will be when all submitted plans are done.
///
/// What every step reads and writes lies together at the front: with many sequences a step costs what it misses in the caches.
struct sequence {
  request_id number = 0;
  run_order order;
  sched::phase phase = phase::waiting;
  bool on_slot = false;    ///< the slot holds the last token
  bool can_stop = true;    ///< some token ends it: of the model or of its own
  slot_id slot = no_slot;
  std::uint32_t generation = 0;  ///< counts preemptions: rows of earlier ones confirm nothing
  std::uint32_t n_prompt = 0;
  std::uint32_t max_output = 0;
  std::uint32_t computed = 0;
  std::uint32_t confirmed = 0;
  std::uint32_t reached = 0;    ///< the largest `computed` so far: below it, work is done again
  std::uint32_t in_flight = 0;  ///< tokens that submitted plans will draw
  std::uint32_t n_offered = 0;  ///< pages offered to the prefix index
  std::int64_t credits = 0;     ///< tokens the stream still takes; those in flight are not yet subtracted
  step_seq last_plan = 0;       ///< the last plan that refers to its pages
  request_ptr request;
  std::vector<token_id> tokens;  ///< prompt and confirmed output
  std::vector<page_table> tables;
  std::uint32_t used_tokens = 0, used_page_tokens = 0;  ///< its share of scheduler_status's
  // Of the request, which is constant: a step then reads of the record no more than `cancelled`.
  std::uint32_t sink = no_sink, shard = 0, n_logprobs = 0;
  std::uint64_t tenant = 0;

  std::uint32_t logits_planned = 0;  ///< positions whose logits a submitted plan delivers
  std::uint32_t n_cached = 0;
  std::uint32_t n_hit = 0;  ///< pages that came from the prefix index
  std::uint64_t lookup_version = 0;  ///< state of the index that the last lookup saw; 0: never looked up
  bool lookup_pending = false;
  bool prepaid = false;  ///< its prompt was charged to the tenant
  time_ns admitted = 0;
  time_ns stall_at = no_deadline;

  request_id id() const { return number; }
  std::uint32_t length() const { return static_cast<std::uint32_t>(tokens.size()); }
  std::uint32_t n_output() const { return length() - n_prompt; }
  std::uint32_t planned_length() const { return length() + in_flight; }
  std::uint32_t remaining() const { return planned_length() - computed; }

  /// The prompt is planned whole and a token has been drawn: one token per step from now on.
  bool decodes() const { return n_output() + in_flight > 0 && remaining() == 1; }
  bool has_room() const { return n_output() + in_flight < max_output; }  ///< the length limit allows one more token
  bool has_credit() const { return credits > in_flight; }
  /// The next row draws a token when it takes n tokens.
  bool draws(std::uint32_t n) const { return max_output > 0 && computed + n == planned_length() && !next_is_logits(); }
  bool next_is_logits() const { return sink != no_sink && computed >= logits_planned && computed < n_prompt; }
  /// Most tokens the next row can have: logits are delivered once, so a row has them for all its tokens or for none.
  std::uint32_t row_limit() const {
    if (next_is_logits()) return n_prompt - computed;
    if (sink != no_sink && computed < logits_planned && remaining() > 1)
      return std::min(remaining(), logits_planned - computed);
    return remaining();
  }
  bool has_pages() const {
    for (const page_table& t : tables)
      if (t.first_live < t.pages.size()) return true;
    return false;
  }
  bool counts_history() const {
    const sampling_params& p = request->sampling;
    return p.repetition_penalty != 1.0f || p.frequency_penalty != 0.0f || p.presence_penalty != 0.0f;
  }
};

}  // namespace troupe::sched
