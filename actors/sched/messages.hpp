#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "actors/cache/messages.hpp"
#include "src/model/step_plan.hpp"
#include "src/sched/request_record.hpp"

/// The protocol of the scheduler.
namespace troupe::sched {

// --- in ------------------------------------------------------------------------------------------------------------

/// A request, ready to run. Answered by token events, the last of which carries a finish reason: exactly one per
/// submit.
struct submit {
  request_ptr request;
  submit() = default;
  explicit submit(request_ptr r) : request(std::move(r)) {}
};

/// A hint that request_record::cancelled was set; may arrive before `submit` or after the end.
struct cancel {
  request_id id = 0;
};

/// The text shard matched a stop string. `n_tokens` output tokens are the completion; what ran past them is waste.
/// Ignored when the request has already ended. The last event that follows has reason stop and no token.
struct finish {
  request_id id = 0;
  std::uint32_t n_tokens = 0;
};

/// The reader took n_tokens off the stream's buffer.
struct resume {
  request_id id = 0;
  std::uint32_t n_tokens = 0;
};

/// A rank finished a plan. Rank 0's answer carries the tokens, the others only acknowledge.
struct step_done {
  std::uint32_t rank = 0;
  model::step_done done;
  step_done() = default;
  step_done(std::uint32_t r, model::step_done d) : rank(r), done(std::move(d)) {}
};

/// A rank was lost: every request ends with errc::rank_failed, and nothing is planned any more.
struct rank_failed {
  std::uint32_t rank = 0;
  std::string message;
  rank_failed() = default;
  rank_failed(std::uint32_t r, std::string m) : rank(r), message(std::move(m)) {}
};

/// New requests are refused with errc::draining; the others may finish until `deadline` (0: cancel them now). Then a
/// plan of kind stop goes to the ranks, and when all of them have done it, `drained` goes out.
struct drain {
  time_ns deadline = no_deadline;
};

using message = std::variant<submit, cancel, finish, resume, step_done, cache::lease_granted, cache::prefix_hit,
                             rank_failed, drain>;

// --- out -----------------------------------------------------------------------------------------------------------

/// What a step did to the requests of one text shard, in order. To that shard.
struct token_batch {
  std::vector<token_event> events;
  token_batch() = default;
  explicit token_batch(std::vector<token_event> e) : events(std::move(e)) {}
};

/// Where the time of a step went, as rank 0 saw it. Steps are the plans of kind run: captures of graphs are none.
struct step_times {
  std::uint64_t device_ns = 0;
  std::uint64_t plan_ns = 0;    ///< the scheduler: building the plan, handing it over, applying the answer
  std::uint64_t launch_ns = 0;  ///< the rank's thread: queuing it; on the CPU next to nothing, as it computes in poll
};

/// The stop plan is done on every rank (or planning has failed before) and nothing is left. To the supervisor.
struct drained {};

/// The scheduler found its own books wrong and ended every request with errc::internal; it plans no more. To the
/// supervisor.
struct failed {
  std::string message;
  failed() = default;
  explicit failed(std::string m) : message(std::move(m)) {}
};

}  // namespace troupe::sched
