#pragma once
#include <memory>
#include <unordered_map>
#include <vector>

#include "actors/front/messages.hpp"
#include "actors/front/sinks.hpp"
#include "actors/sched/messages.hpp"
#include "actors/text/messages.hpp"
#include "src/mail/permit.hpp"
#include "src/watch/engine_metrics.hpp"

namespace troupe::front {

/// What a port needs of its engine. Any thread.
class port_host {
 public:
  virtual ~port_host() = default;
  virtual const engine_options& options() const noexcept = 0;
  virtual const model_info& info() const noexcept = 0;
  virtual bool failed() const noexcept = 0;  ///< a rank was lost
  virtual mail::permits& permits() noexcept = 0;
  virtual watch::engine_metrics& metrics() noexcept = 0;
  virtual front::sinks& sinks() noexcept = 0;
  virtual std::uint32_t n_text_shards() const noexcept = 0;
  virtual mail::sender<text::message> text_sender(std::uint32_t shard) = 0;
  virtual mail::sender<sched::message> sched_sender() = 0;
  virtual request_id next_request_id() noexcept = 0;
};

/// Owns: the consumer's streams and its mailbox. Thread: the consumer's. Invariants: a stream is in the table from a
/// successful submit to its end event; its sink hears nothing after `on_end`.
class consumer_port {
 public:
  consumer_port(std::shared_ptr<port_host>, port_waker);
  ~consumer_port();
  consumer_port(const consumer_port&) = delete;

  submitted submit(request, std::shared_ptr<stream_sink>);
  void cancel(stream_id);
  void consumed(stream_id, std::uint32_t n_tokens);
  std::size_t poll();
  std::size_t open_streams() const noexcept { return streams_.size(); }

 private:
  /// Memory planned for; shards send past it, because the streams bound what can be under way: each has at most its
  /// buffer's tokens.
  static constexpr std::uint32_t message_limit = 256;

  struct open_stream {
    text::stream_ptr record;
    std::shared_ptr<stream_sink> sink;
    std::uint32_t unreported = 0;  ///< tokens consumed since the last `resume`
  };

  bool park();
  void request_cancel(text::stream_record&);
  void deliver(stream_event&);

  std::shared_ptr<port_host> engine_;
  port_waker waker_;
  port_ptr box_;
  std::vector<mail::sender<text::message>> to_text_;
  mail::sender<sched::message> to_sched_;
  std::unordered_map<stream_id, open_stream> streams_;
  std::vector<message> batches_;
  stream_id last_stream_ = 0;
  bool parked_ = false;
};

}  // namespace troupe::front

namespace troupe {

class port::impl final : public front::consumer_port {
 public:
  using consumer_port::consumer_port;
};

}  // namespace troupe
