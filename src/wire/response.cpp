#include "src/wire/response.hpp"

#include "src/wire/json_text.hpp"

namespace troupe::wire {
namespace {

void append_stop_reason(std::string& out, const std::optional<std::string>& match) {
  out += R"(,"stop_reason":)";
  if (match) append_string(out, *match);
  else out += "null";
}

std::string make_head(std::string_view id_prefix, std::string_view id, std::string_view object, std::string_view model, std::int64_t created) {
  std::string out = R"({"id":")";
  out += id_prefix;
  append_escaped(out, id);
  out += R"(","object":")";
  out += object;
  out += R"(","created":)";
  append_number(out, created);
  out += R"(,"model":)";
  append_string(out, model);
  return out;
}

}  // namespace

std::string_view to_string(finish_reason r) noexcept {
  switch (r) {
    case finish_reason::none: break;
    case finish_reason::stop: return "stop";
    case finish_reason::length: return "length";
    case finish_reason::cancelled: return "abort";
    case finish_reason::error: return "error";
  }
  return "none";
}

response_writer::response_writer(api_kind kind, std::string_view id, std::string_view model, std::int64_t created, bool usage_in_stream)
    : kind_(kind), tail_(usage_in_stream ? ",\"usage\":null}\n\n" : "}\n\n") {
  const bool chat = kind == api_kind::chat;
  const std::string_view prefix = chat ? "chatcmpl-" : "cmpl-";
  head_ = "data: " + make_head(prefix, id, chat ? "chat.completion.chunk" : "text_completion", model, created);
  whole_head_ = make_head(prefix, id, chat ? "chat.completion" : "text_completion", model, created);
}

void response_writer::open_choice(std::string& out, std::uint32_t index) const {
  out += head_;
  out += R"(,"choices":[{"index":)";
  append_number(out, index);
}

void response_writer::close_choice(std::string& out) const {
  out += "}]";
  out += tail_;
}

void response_writer::role(std::string& out, std::uint32_t index) const {
  if (kind_ != api_kind::chat) return;
  open_choice(out, index);
  out += R"(,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null)";
  close_choice(out);
}

void response_writer::delta(std::string& out, std::uint32_t index, std::string_view text) const {
  open_choice(out, index);
  if (kind_ == api_kind::chat) {
    out += R"(,"delta":{"content":)";
    append_string(out, text);
    out += '}';
  } else {
    out += R"(,"text":)";
    append_string(out, text);
  }
  out += R"(,"logprobs":null,"finish_reason":null)";
  close_choice(out);
}

void response_writer::finish(std::string& out, std::uint32_t index, finish_reason reason, const std::optional<std::string>& stop_match) const {
  open_choice(out, index);
  out += kind_ == api_kind::chat ? R"(,"delta":{})" : R"(,"text":"")";
  out += R"(,"logprobs":null,"finish_reason":")";
  out += to_string(reason);
  out += '"';
  append_stop_reason(out, stop_match);
  close_choice(out);
}

void response_writer::usage(std::string& out, const troupe::usage& u) const {
  out += head_;
  out += R"(,"choices":[],"usage":)";
  append_usage(out, u);
  out += "}\n\n";
}

void response_writer::whole(std::string& out, std::span<const choice_text> choices, const troupe::usage& u) const {
  out += whole_head_;
  out += R"(,"choices":[)";
  bool first = true;
  for (const auto& c : choices) {
    if (!first) out += ',';
    first = false;
    out += R"({"index":)";
    append_number(out, c.index);
    if (kind_ == api_kind::chat) {
      out += R"(,"message":{"role":"assistant","content":)";
      append_string(out, c.text);
      out += R"(,"refusal":null})";
    } else {
      out += R"(,"text":)";
      append_string(out, c.text);
    }
    out += R"(,"logprobs":null,"finish_reason":")";
    out += to_string(c.reason);
    out += '"';
    append_stop_reason(out, c.stop_match);
    out += '}';
  }
  out += R"(],"usage":)";
  append_usage(out, u);
  out += R"(,"system_fingerprint":null})";
}

void append_usage(std::string& out, const troupe::usage& u) {
  out += R"({"prompt_tokens":)";
  append_number(out, u.prompt_tokens);
  out += R"(,"completion_tokens":)";
  append_number(out, u.completion_tokens);
  out += R"(,"total_tokens":)";
  append_number(out, std::uint64_t{u.prompt_tokens} + u.completion_tokens);
  out += R"(,"prompt_tokens_details":{"cached_tokens":)";
  append_number(out, u.cached_tokens);
  out += "}}";
}

void append_error_event(std::string& out, const api_error& e) {
  out += "data: ";
  append_error(out, e);
  out += "\n\n";
}

void append_done(std::string& out) { out += "data: [DONE]\n\n"; }
void append_ping(std::string& out) { out += ": ping\n\n"; }

void append_model(std::string& out, std::string_view name, std::int64_t created, std::uint32_t max_model_len) {
  out += R"({"id":)";
  append_string(out, name);
  out += R"(,"object":"model","created":)";
  append_number(out, created);
  out += R"(,"owned_by":"troupe","root":)";
  append_string(out, name);
  out += R"(,"parent":null,"max_model_len":)";
  append_number(out, max_model_len);
  out += '}';
}

void append_models(std::string& out, std::string_view name, std::int64_t created, std::uint32_t max_model_len) {
  out += R"({"object":"list","data":[)";
  append_model(out, name, created, max_model_len);
  out += "]}";
}

void append_tokens(std::string& out, std::span<const std::int32_t> tokens, std::uint32_t max_model_len) {
  out += R"({"tokens":[)";
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i) out += ',';
    append_number(out, tokens[i]);
  }
  out += R"(],"count":)";
  append_number(out, tokens.size());
  out += R"(,"max_model_len":)";
  append_number(out, max_model_len);
  out += '}';
}

void append_detokenized(std::string& out, std::string_view text) {
  out += R"({"prompt":)";
  append_string(out, text);
  out += R"(,"content":)";
  append_string(out, text);
  out += '}';
}

}  // namespace troupe::wire
