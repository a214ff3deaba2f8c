#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "actors/text/messages.hpp"
#include "src/text/detokenizer.hpp"
#include "src/text/open_tokenizer.hpp"
#include "src/text/stop_matcher.hpp"
#include "src/watch/engine_metrics.hpp"

/// Text shard: chat template and encoding on the way in; detokenizing, stop strings and usage on the way out. A request
/// stays on its shard for life.
///
/// Owns: the streams of its requests, one outgoing batch per port. Thread: its loop. Invariants: every encode_request is
/// answered by exactly one end event at its port; a stream leaves the table when the scheduler has had its last word (or
/// was never asked).
namespace troupe::text {

/// Where the shard's messages go.
class outbox {
 public:
  virtual ~outbox() = default;
  virtual void send(sched::submit&&) = 0;
  virtual void send(sched::finish&&) = 0;
  virtual void send(const front::port_ptr&, front::stream_batch&&) = 0;
  /// No stream of this port is left on this shard.
  virtual void forget(const front::port_ptr&) = 0;
};

/// What all shards of an engine share; immutable.
struct text_model {
  std::shared_ptr<const text::tokenizer> tokenizer;  ///< null: requests must bring token ids, pieces carry ids only
  std::shared_ptr<const chat_renderer> chat;         ///< null: no chat
  std::uint32_t vocab = 0;
  std::string why_no_tokenizer;                        ///< a sentence, when there is none
};

/// Renders and encodes a prompt; what the engine's own tokenize and template functions use too.
result<std::string> render_chat(const text_model&, const chat_prompt&);
result<std::vector<token_id>> encode_prompt(const text_model&, const request&);

class text_actor {
 public:
  using message = text::message;
  using clock = std::function<std::chrono::steady_clock::time_point()>;

  text_actor(text_model model, std::shared_ptr<watch::engine_metrics> metrics,
             clock now = std::chrono::steady_clock::now);
  ~text_actor();
  text_actor(text_actor&&) = delete;

  void on(encode_request&&, outbox&);
  void on(sched::token_batch&&, outbox&);
  /// Sends what the messages of this turn produced: one batch per port.
  void settle(outbox&);
  /// A handler threw: the request it was about ends with errc::internal.
  void failed(message&, std::exception_ptr, outbox&);

  std::size_t n_streams() const noexcept { return streams_.size(); }

 private:
  struct stream;
  using time_point = std::chrono::steady_clock::time_point;

  void take(stream&, const sched::token_event&, outbox&);
  void add_token(stream&, token_id, outbox&);
  void emit(stream&, std::string text, std::vector<std::int32_t> tokens);
  void end(stream&, completion, const sched::token_event*);
  void refuse(const stream_ptr&, const failure&);
  front::stream_event& event_of(const stream_ptr&);
  void observe(const stream&, const completion&);

  text_model model_;
  std::shared_ptr<watch::engine_metrics> metrics_;
  clock now_;
  std::unordered_map<request_id, std::unique_ptr<stream>> streams_;

  /// Streams per port and what this turn has for it. Ports are few.
  struct port_entry {
    front::port_ptr port;
    std::uint32_t n_streams = 0;
    std::vector<front::stream_event> events;
  };
  port_entry& entry_of(const front::port_ptr&);
  void leave(const front::port_ptr&);
  std::vector<port_entry> ports_;
};

}  // namespace troupe::text
