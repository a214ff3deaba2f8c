#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <troupe/request.hpp>

#include "src/wire/api_error.hpp"

namespace troupe::wire {

enum class api_kind { chat, completion };

/// One finished choice of an answer that is not streamed.
struct choice_text {
  std::uint32_t index = 0;
  std::string text;
  finish_reason reason = finish_reason::stop;
  std::optional<std::string> stop_match;
};

/// Writes the answer to one request: either `whole`, or a stream of server-sent events in the order role (once per
/// choice), delta…, finish (once per choice), usage (if asked), done; `error` may stand in for any suffix before done.
/// Every call appends to `out` and keeps nothing, so that a slow socket's pieces pile up in one buffer and leave in one
/// write. Formatted by hand: this runs once per token and stream.
class response_writer {
 public:
  /// `id` without prefix (chatcmpl-, cmpl- are put before it). `created` in seconds since 1970. `usage_in_stream`: chunks
  /// carry "usage":null, as OpenAI does when stream_options.include_usage is set.
  response_writer(api_kind, std::string_view id, std::string_view model, std::int64_t created, bool usage_in_stream);

  void role(std::string& out, std::uint32_t index) const;  ///< nothing for completions, which have no roles
  void delta(std::string& out, std::uint32_t index, std::string_view text) const;
  void finish(std::string& out, std::uint32_t index, finish_reason, const std::optional<std::string>& stop_match) const;
  void usage(std::string& out, const troupe::usage&) const;

  void whole(std::string& out, std::span<const choice_text>, const troupe::usage&) const;

 private:
  void open_choice(std::string& out, std::uint32_t index) const;
  void close_choice(std::string& out) const;

  api_kind kind_;
  std::string head_;   // {"id":…,"object":"…chunk","created":…,"model":…
  std::string whole_head_;
  std::string tail_;   // ,"usage":null}\n\n or }\n\n
};

/// "stop", "length", … as OpenAI spells them.
std::string_view to_string(finish_reason) noexcept;

/// `data: {"error":…}` for a stream that has begun.
void append_error_event(std::string& out, const api_error&);
/// `data: [DONE]`.
void append_done(std::string& out);
/// A comment that keeps proxies from closing a silent stream.
void append_ping(std::string& out);

/// {"object":"list","data":[…]} with the one model that is served.
void append_models(std::string& out, std::string_view name, std::int64_t created, std::uint32_t max_model_len);
/// {"id","object":"model",…}
void append_model(std::string& out, std::string_view name, std::int64_t created, std::uint32_t max_model_len);
void append_usage(std::string& out, const troupe::usage&);

/// {"tokens":[…],"count":n,"max_model_len":m}
void append_tokens(std::string& out, std::span<const std::int32_t> tokens, std::uint32_t max_model_len);
/// {"prompt":…,"content":…}: the text under the names that vLLM and llama.cpp give it.
void append_detokenized(std::string& out, std::string_view text);

}  // namespace troupe::wire
