#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <troupe/error.hpp>
#include <troupe/export.hpp>
#include <troupe/options.hpp>
#include <troupe/request.hpp>
#include <troupe/sampling_choices.hpp>

namespace troupe {

class engine;
class port;
class token_stream;

/// Receives one answer. Called on the port's thread, from `port::poll`; must not block; exceptions end the stream's
/// request with `errc::internal`. `on_end` is the last call, exactly once per accepted request.
class TROUPE_API stream_sink {
 public:
  virtual ~stream_sink();
  virtual void on_piece(piece&&) = 0;
  virtual void on_end(completion&&) = 0;
};

/// How a port tells its owner that `poll` has work: called from engine threads, must be quick and never throw
/// (typically it posts `poll` to the owner's executor). At most one call is outstanding until the next `poll`.
struct port_waker {
  void (*wake)(void* context) noexcept = nullptr;
  void* context = nullptr;
};

/// Names a stream within its port. Never reused.
using stream_id = std::uint64_t;

/// What `port::submit` says: a stream, or why there is none (overloaded, draining, invalid_argument).
struct submitted {
  stream_id stream = 0;
  std::error_code error;
  std::string message;
  explicit operator bool() const noexcept { return !error; }
};

/// A consumer's end of the engine: one per executor (a server thread, an embedding program's loop, a command).
/// All members are for one thread at a time, the port's; the engine reaches it through the waker only.
/// Destroying the port cancels what it still has open. The port must not outlive its engine's destructor's start.
class TROUPE_API port {
 public:
  ~port();
  port(const port&) = delete;
  port& operator=(const port&) = delete;

  /// Takes an admission permit and sends the request on its way. Validates what needs no tokenizer (ranges of the
  /// sampling parameters, counts and lengths); what needs one (context length, unknown ids) arrives in `on_end`.
  submitted submit(request, std::shared_ptr<stream_sink>);

  /// No plan built after the engine has seen the cancel contains the request; `on_end` follows with reason cancelled.
  void cancel(stream_id);

  /// The reader has taken `n_tokens` off the stream's buffer; a parked stream goes on. Streams that never call this
  /// park after engine_options::stream_buffer tokens.
  void consumed(stream_id, std::uint32_t n_tokens);

  /// Delivers everything that has arrived to the sinks, on the calling thread. Returns the number of events.
  std::size_t poll();

  std::size_t open_streams() const noexcept;

 private:
  friend class engine;
  class impl;
  explicit port(std::unique_ptr<impl>);
  std::unique_ptr<impl> impl_;
};

/// What is being served; constant after `open`.
struct model_info {
  std::string name;             ///< served_model_name
  std::string architecture;
  std::string path;
  std::uint64_t n_parameters = 0;
  std::uint64_t weight_bytes = 0;
  std::uint32_t n_layers = 0, hidden = 0, vocab = 0;
  std::uint32_t context_length = 0;   ///< of the model
  std::uint32_t max_model_len = 0;    ///< of this engine
  std::uint32_t max_num_seqs = 0;
  std::uint32_t max_num_batched_tokens = 0;
  std::uint32_t n_pages = 0;
  std::uint64_t kv_cache_bytes = 0;
  std::uint32_t threads = 0;
  std::uint32_t tensor_parallel_size = 1;
  std::string device;                 ///< "cpu", "cuda:0"
  std::string isa;                    ///< what computes: "scalar", "avx2", "avx512", "reference", on a GPU "bfloat16" and so on
  std::int32_t bos_token = -1;
  std::vector<std::int32_t> eos_tokens;
  bool has_chat_template = false;
  sampling_choices sampling;          ///< what the model's files recommend. A request is taken as it is: who wants them applies them
};

/// A moment of the engine's life, for health checks and tests. Approximate while requests run, exact when idle.
struct engine_status {
  bool ready = false;            ///< idle, or a step finished within the watchdog's time, on every rank
  bool draining = false;
  bool failed = false;           ///< a rank was lost
  std::uint64_t requests_in_system = 0;
  std::uint64_t sequences_running = 0;
  std::uint64_t sequences_waiting = 0;
  std::uint64_t pages_total = 0;
  std::uint64_t pages_free = 0;
  std::uint64_t steps = 0;
};

/// The engine: actors for text, scheduling, cache and ranks on threads of its own. Movable; thread-safe except where
/// said. Several may live in one process. Installs no signal handlers, prints nothing, never aborts.
class TROUPE_API engine {
 public:
  /// Loads the model and starts the actors. Blocks. Throws troupe::error.
  static engine open(engine_options);

  engine(engine&&) noexcept;
  engine& operator=(engine&&) noexcept;
  /// Cancels what is running and joins the engine's own threads. A rank that hangs is waited for until the watchdog
  /// calls it lost (engine_options::step_timeout, one and a half times and a few seconds at most); if its thread does not
  /// come back then, it is left behind with the memory it uses, and frees that should it come back later.
  ~engine();

  const model_info& info() const noexcept;
  engine_status status() const;

  std::unique_ptr<port> open_port(port_waker);

  /// Refuses new requests, lets the running ones end (at most `drain`, then cancels them), then calls `stopped` once
  /// on an engine thread.
  void stop(std::chrono::milliseconds drain, std::function<void()> stopped);

  /// Called once on an engine thread when a rank is lost; set it before the first request. It must not destroy the engine.
  void on_failure(std::function<void(std::error_code, std::string)>);

  /// Tokenizer and template of the model, on the calling thread. Throw troupe::error on invalid input.
  std::vector<std::int32_t> tokenize(std::string_view text, bool add_special_tokens = true, bool parse_special = true) const;
  std::string detokenize(const std::vector<std::int32_t>& tokens, bool skip_special_tokens = false) const;
  std::string apply_template(const chat_prompt&) const;

  /// Prometheus text exposition of the engine's metrics.
  std::string metrics() const;

  /// Completion-token form: signature void(std::error_code, token_stream). Needs <troupe/asio.hpp> or
  /// <troupe/boost_asio.hpp>. Cancelling the token (total, partial or terminal) cancels the request.
  template <class CompletionToken>
  auto async_generate(request r, CompletionToken&& token) {
    return troupe_async_generate(*this, std::move(r), std::forward<CompletionToken>(token));
  }
  /// Completion-token form of `stop`: signature void(std::error_code).
  template <class CompletionToken>
  auto async_stop(std::chrono::milliseconds drain, CompletionToken&& token) {
    return troupe_async_stop(*this, drain, std::forward<CompletionToken>(token));
  }

  class impl;
  const std::shared_ptr<impl>& implementation() const noexcept { return impl_; }

 private:
  explicit engine(std::shared_ptr<impl>);
  std::shared_ptr<impl> impl_;
};

}  // namespace troupe
