#pragma once
#include <chrono>
#include <memory>
#include <utility>
#include <variant>

#include "actors/front/messages.hpp"
#include "actors/sched/messages.hpp"
#include "src/mail/permit.hpp"
#include "src/sched/request_record.hpp"

/// The protocol of a text shard.
namespace troupe::text {

/// One accepted request, from admission to its last event. The port makes it, the shard encodes the prompt into
/// `sched.prompt`, and from `submit` on it is constant but for `sched.cancelled`. Its permit and its place in the sink
/// table end with it.
struct stream_record {
  sched::request_record sched;
  troupe::request request;  ///< as given; the prompt text is released once it is encoded
  stream_id stream = 0;
  front::port_ptr port;
  std::chrono::steady_clock::time_point arrived;
  mail::permit permit;
  std::shared_ptr<void> sink_registration;
};
using stream_ptr = std::shared_ptr<stream_record>;

/// The scheduler's part of a record, sharing its life.
inline sched::request_ptr scheduling_part(const stream_ptr& record) { return {record, &record->sched}; }

struct encode_request {
  stream_ptr record;
  encode_request() = default;
  explicit encode_request(stream_ptr r) : record(std::move(r)) {}
};

using message = std::variant<encode_request, sched::token_batch>;

}  // namespace troupe::text
