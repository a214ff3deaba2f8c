#pragma once
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <troupe/request.hpp>

#include "src/base/ids.hpp"

namespace troupe::sched {

/// Nanoseconds of the steady clock since its epoch. The scheduler has no clock: whoever calls it passes the time.
using time_ns = std::int64_t;
inline constexpr time_ns no_deadline = std::numeric_limits<time_ns>::max();

inline constexpr std::uint32_t no_sink = 0;
inline constexpr std::uint32_t unlimited_credits = std::numeric_limits<std::uint32_t>::max();

/// One request as the scheduler sees it, shared by the port, the text shard and the scheduler. All fields are written
/// before the record is sent with `submit` and are constant from then on, but for `cancelled`, which the port may set
/// at any time from any thread: it is what makes a cancel take effect even when its message overtakes `submit`.
struct request_record {
  request_id id = 0;  ///< unique within the engine, never reused
  std::atomic<bool> cancelled{false};

  std::vector<token_id> prompt;  ///< at least one token
  sampling_params sampling;
  std::uint64_t seed = 0;  ///< sampling.seed, or what the engine drew in its place
  std::uint32_t n_logprobs = 0;
  std::optional<std::uint32_t> max_tokens;  ///< absent: the rest of the context
  std::vector<token_id> stop_token_ids;
  bool ignore_eos = false;

  std::int32_t priority = 0;  ///< lower runs sooner
  time_ns deadline = no_deadline;
  std::uint64_t tenant = 0;                   ///< opaque key of the fair shares
  std::uint32_t sink = no_sink;               ///< logits sink of a teacher-forced run
  std::uint32_t shard = 0;                    ///< text shard that gets the tokens
  std::uint32_t credits = unlimited_credits;  ///< tokens the stream may be ahead of its reader; `resume` adds to them
  time_ns stall_limit = 60'000'000'000;       ///< a stream without credit is cancelled after this time
  std::string cache_salt;                     ///< requests share cached prefixes only under the same salt
};
using request_ptr = std::shared_ptr<request_record>;

/// What happened to a request in a step. `reason == none`: one more token. Otherwise this is the request's last event,
/// of which every submitted request gets exactly one:
///   stop       `token` >= 0 is the end-of-text or stop id that was drawn: it counts as completion token, is not text;
///              `token` < 0: the text shard's `finish` was taken
///   length     `token` >= 0 belongs to the text; `token` < 0: max_tokens is 0
///   cancelled, error   `token` < 0; `code` and `message` say why
struct token_event {
  request_id id = 0;
  std::uint32_t shard = 0;
  token_id token = -1;
  float logprob = 0;
  finish_reason reason = finish_reason::none;
  std::uint32_t n_cached = 0;  ///< last event: prompt tokens that came from the prefix cache
  time_ns admitted = 0;        ///< last event: when it first entered a plan; 0: never
  std::error_code code;
  std::string message;
};

}  // namespace troupe::sched
