#pragma once
#include <memory>
#include <unordered_map>
#include <vector>

#include "actors/front/engine_impl.hpp"
#include "actors/front/messages.hpp"
#include "actors/text/messages.hpp"

namespace troupe {

/// Owns: the consumer's streams and its mailbox. Thread: the consumer's. Invariants: a stream is in the table from a
/// successful submit to its end event; its sink hears nothing after `on_end`.
class port::impl {
 public:
  impl(std::shared_ptr<engine::impl>, port_waker);
  ~impl();

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
  void deliver(front::stream_event&);

  std::shared_ptr<engine::impl> engine_;
  port_waker waker_;
  front::port_ptr box_;
  std::vector<mail::sender<text::message>> to_text_;
  mail::sender<sched::message> to_sched_;
  std::unordered_map<stream_id, open_stream> streams_;
  std::vector<front::message> batches_;
  stream_id last_stream_ = 0;
  bool parked_ = false;
};

}  // namespace troupe
