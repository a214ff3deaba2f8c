#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "src/cache/page_lease.hpp"
#include "src/model/backend.hpp"
#include "src/sched/cost_model.hpp"
#include "src/sched/graph_book.hpp"
#include "src/sched/sequence.hpp"
#include "src/sched/waiting_queue.hpp"

namespace troupe::sched {

/// How much longer prompts may make a step whose decode rows alone fill the budget.
inline constexpr double decode_stretch = 1.5;

struct scheduler_options {
  std::vector<token_id> eos_tokens;
  bool by_priority = true;               ///< false: request_record::priority is ignored (first come, first served)
  std::uint32_t max_batched_tokens = 0;  ///< tokens in one step; 0: what the ranks allow
  std::uint32_t min_chunk = 64;          ///< a prompt shares a step with others only down to this chunk
  time_ns step_budget = 50'000'000;      ///< device time of a step that has decode rows, see stall_bound; 0: no limit
  double watermark = 0.01;               ///< share of the pages that an admission leaves free for running sequences
  bool warm_up = false;                  ///< have all graphs captured before the first step
  bool prefix_cache = false;             ///< look prompts up in the cache and publish what is computed
};

/// Asks the cache for the longest cached prefix of tokens[0, n_tokens).
struct prefix_query {
  request_id id;
  std::shared_ptr<const std::vector<token_id>> tokens;
  std::uint32_t n_tokens;
  std::string salt;
};
/// Offers full pages of confirmed tokens to the cache.
struct prefix_offer {
  std::shared_ptr<const std::vector<token_id>> tokens;
  std::string salt;
  cache::page_lists pages;
  bool last;  ///< the pages come back after it
};

/// What the scheduler wants sent. To the cache in this order: offers, returns, queries, want.
struct scheduler_output {
  std::vector<token_event> events;
  std::vector<prefix_offer> offers;
  cache::page_lists returns;
  std::vector<prefix_query> queries;
  std::vector<std::uint32_t> want;  ///< pages per group; empty: nothing wanted
};

struct scheduler_status {
  std::size_t n_requests = 0, n_running = 0, n_waiting = 0, n_parked = 0;
  std::uint64_t n_pages = 0;       ///< of all groups
  std::uint64_t n_free_pages = 0;  ///< unused, with the scheduler or obtainable from the cache
  std::uint64_t used_tokens = 0;   ///< positions that hold something, first group; with the next: live waste
  std::uint64_t used_page_tokens = 0;
  std::uint64_t steps = 0;           ///< plans done
  std::uint64_t prompt_tokens = 0;   ///< prompt positions computed, recomputation not counted
  std::uint64_t output_tokens = 0;   ///< tokens delivered
  std::uint64_t surplus_tokens = 0;  ///< drawn past an end or a stop string, and dropped
  std::uint64_t recomputed_tokens = 0;
  std::uint64_t preemptions = 0;
  std::uint64_t cached_tokens = 0;
};

/// Decides what every step computes. Pure: no thread, no device, no clock (time is passed in), and deterministic: the
/// same calls give the same plans.
///
/// Rules
/// - Every submit ends in exactly one last token_event, whatever happens.
/// - Decode rows first, in an order that every running sequence comes up in; what is left of the budgets goes to
///   prompts, the first in line getting at least half, several at once.
/// - A sequence is admitted when its whole prompt fits and a watermark of pages stays free. When pages run out, cached
///   hits of waiting sequences go first, then parked sequences, then the lowest priority, then the last admitted: it is
///   recomputed later and draws the same tokens.
/// - A page returns when no submitted plan refers to it; no plan built after an end contains the sequence.
/// - Tokens come in steps later than plans are built (depth): length limits are never overrun, an end-of-text id leaves
///   surplus tokens, which are dropped and counted.
///
/// A breach of its own books throws errc::internal; then only fail_all and destruction are meaningful.
class scheduler {
 public:
  /// Throws errc::invalid_argument for a shape that cannot run one sequence.
  scheduler(model::rank_shape, scheduler_options);
  ~scheduler();
  scheduler(const scheduler&) = delete;
  scheduler& operator=(const scheduler&) = delete;

  void submit(request_ptr);
  void cancel(request_id);
  void finish(request_id, std::uint32_t n_tokens);
  void resume(request_id, std::uint32_t n_tokens, time_ns now);
  void on_step_done(const model::step_done&);
  void lease_granted(const cache::page_lists&, std::span<const std::uint32_t> available);
  void prefix_hit(request_id, std::uint32_t n_tokens, const cache::page_lists&);
  void drain(time_ns deadline);
  /// Ends every request and stops planning for good.
  void fail_all(errc, const std::string& message);

  /// The next plan, or null: nothing to do, `depth` plans in flight, or pages on their way. After a drain, when
  /// everything has ended, the last plan is of kind stop.
  std::shared_ptr<const model::step_plan> plan_step(time_ns now);

  /// Ends what is past its deadline. plan_step does it too.
  void expire(time_ns now);
  time_ns next_deadline() const;

  /// To be sent, and cleared by whoever sends it, after each call.
  scheduler_output& output();

  std::size_t plans_in_flight() const { return flights_.size(); }
  step_seq last_seq() const { return last_seq_; }
  bool draining() const { return draining_; }
  bool drained() const { return drained_; }  ///< the stop plan is done
  bool failed() const { return failed_; }
  const cost_model& costs() const { return costs_; }
  scheduler_status status() const;

  /// Longest time a running stream waits for its next token because of other people's prompts: the larger of the step
  /// budget and twice the time of the decode rows alone, plus one smallest chunk. Without a budget, the time of a full
  /// step at full depth. 0 before the first step. Predicted by the fitted cost model.
  time_ns stall_bound() const;

  void check() const;  ///< constant time; called by plan_step
  void audit() const;  ///< every page, slot and list; for tests

 private:
  struct flight_row {
    request_id id;
    slot_id slot;
    std::uint32_t generation;
    std::uint32_t start;
    std::uint32_t end;  ///< positions confirmed when it is done
    bool draws;
    bool finishes;  ///< the request asks for no token and ends with this row
  };
  struct flight {
    step_seq seq;
    model::plan_kind kind;
    step_shape shape;
    std::vector<flight_row> rows;
  };
  struct alarm {
    time_ns at;
    request_id id;
    bool stall;
    auto operator<=>(const alarm&) const = default;
  };
  struct chunk_choice {
    sequence* s;
    std::uint32_t n;
  };

  // lifecycle: scheduler.cpp
  void refuse(const request_ptr&, errc, std::string message);
  void end(sequence&, finish_reason, token_id = -1, float logprob = 0);
  void end(sequence&, finish_reason, errc, std::string message);
  void end(sequence&, token_event);
  void end_all(finish_reason, errc, const std::string& message);
  void row_done(const flight_row&, const model::row_result*);
  void take_token(sequence&, const model::row_result&);
  void charge(const flight&, double device_ns);
  bool is_stop(const sequence&, token_id) const;
  sequence* find(request_id) const;
  sequence* sequence_of(const flight_row& r) const {
    sequence* s = at_slot_[r.slot];
    return s && s->id() == r.id ? s : find(r.id);
  }
  void fetch(const std::vector<flight_row>&) const;
  void enqueue(sequence&);
  void leave_list(sequence&);
  void park(sequence&);
  void unpark(sequence&);
  void set_stall(sequence&, time_ns);
  std::uint32_t capacity_tokens() const;

  // planning: planning.cpp
  void drop_cancelled();
  void plan_decodes();
  void plan_prompts();
  std::vector<chunk_choice> choose_chunks();
  sequence* next_admission(std::vector<std::uint32_t>& reserved, std::size_t n_chosen, std::size_t n_admitted);
  bool find_pages_for(const sequence& head, const std::vector<std::uint32_t>& reserved, bool alone);
  bool find_slot(std::size_t n_admitted);
  double prompt_time() const;
  void attach(sequence&);
  void add_row(sequence&, std::uint32_t n_tokens);
  std::shared_ptr<const model::step_plan> build(model::plan_kind);
  std::shared_ptr<const model::step_plan> capture(const model::graph_key&);
  void look_up_ahead();

  // pages: memory.cpp
  std::uint32_t pages_for(std::uint32_t n_tokens) const { return (n_tokens + page_tokens - 1) / page_tokens; }
  std::uint32_t first_page_of(std::size_t group, std::uint32_t position) const;
  std::uint32_t new_pages(const sequence&, std::size_t group, std::uint32_t end) const;
  std::uint32_t outstanding_pages(const sequence&, std::size_t group) const;
  std::uint32_t affordable(const sequence&, std::uint32_t n_tokens) const;
  void take_pages(sequence&, std::uint32_t end);
  void drop_behind_window(sequence&);
  void drop_pages(sequence&);
  void account(sequence&);
  void release_slot(sequence&);
  void preempt(sequence&);
  bool make_room(sequence&);
  bool is_coming(const sequence&, std::uint32_t end);
  sequence* idle_holder(const sequence* spared) const;
  bool relieve();
  void want_pages(std::size_t group, std::uint32_t n);
  std::uint32_t watermark(std::size_t group) const;
  void collect_returns();
  void offer(sequence&, bool last);
  void refill();

  model::rank_shape shape_;
  scheduler_options options_;
  cost_model costs_;
  graph_book graphs_;
  scheduler_output output_;

  std::unordered_map<request_id, std::unique_ptr<sequence>> sequences_;
  waiting_queue waiting_;
  std::vector<sequence*> running_;  ///< by order
  std::vector<sequence*> parked_;
  std::vector<slot_id> free_slots_;
  std::vector<sequence*> at_slot_;  ///< who holds it; null: free
  std::set<alarm> alarms_;
  std::uint64_t arrivals_ = 0;

  std::vector<cache::page_lease> leases_;
  std::vector<std::uint32_t> available_;  ///< what the cache can still give, as far as known
  std::vector<std::uint32_t> promised_;   ///< pages on their way that sequences already wait for, in this plan
  std::vector<std::uint32_t> returned_;   ///< pages returned since the want that is pending
  bool want_pending_ = false;
  std::size_t n_lookups_ = 0;        ///< not answered yet
  std::uint64_t index_version_ = 1;  ///< counts offers: a lookup before the last one may have missed something

  model::plan_builder builder_;  ///< releases collect between plans; the rest is filled while planning
  flight next_, spare_;  ///< spare_: empty, with the room of an old one
  std::deque<flight> flights_;
  step_seq last_seq_ = 0;
  step_seq last_done_ = 0;
  std::vector<std::uint32_t> result_of_;  ///< per slot: index of its result in the step being handled
  time_ns now_ = 0;

  bool starved_ = false;  ///< a decode row of this plan waits for pages
  bool draining_ = false, stopped_ = false, drained_ = false, failed_ = false;
  errc failure_ = errc::internal;
  std::string failure_message_;
  time_ns drain_deadline_ = no_deadline;
  scheduler_status counts_;
};

}  // namespace troupe::sched
