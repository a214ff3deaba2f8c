#include "src/wire/request_parser.hpp"

#include <algorithm>
#include <utility>

#include "src/wire/fields.hpp"

namespace troupe::wire {
namespace {

// Bodies above this do not keep their parse buffers (some 13 bytes per byte of body) alive between requests.
constexpr std::size_t keep_buffers_below = 1u << 20;

std::string_view reason(simdjson::error_code e) {
  switch (e) {
    case simdjson::EMPTY: return "it is empty";
    case simdjson::UTF8_ERROR: return "it is not UTF-8";
    case simdjson::DEPTH_ERROR: return "it is nested more than 64 levels deep";
    case simdjson::STRING_ERROR: return "a string has a bad escape or a control character";
    case simdjson::UNCLOSED_STRING: return "a string does not end";
    case simdjson::UNESCAPED_CHARS: return "a string has a control character that is not escaped";
    case simdjson::NUMBER_ERROR: return "a number is malformed or too large";
    case simdjson::T_ATOM_ERROR:
    case simdjson::F_ATOM_ERROR:
    case simdjson::N_ATOM_ERROR: return "a bare word is neither true, false nor null";
    case simdjson::CAPACITY:
    case simdjson::MEMALLOC: return "it is too large to parse";
    default: return "a bracket, comma or colon is missing, or something follows the end";
  }
}

// A repeated key means that two readers of one body may see two requests: refused wherever it stands.
bool no_repeated_key(field_reader& r, const std::string& path, json_value v) {
  if (v.type() == json_type::ARRAY) {
    std::size_t i = 0;
    for (json_value e : array_of(v)) {
      const auto type = e.type();
      if ((type == json_type::ARRAY || type == json_type::OBJECT) && !no_repeated_key(r, indexed(path, i), e)) return false;
      ++i;
    }
    return true;
  }
  if (v.type() != json_type::OBJECT) return true;
  std::vector<std::string_view> keys;
  for (auto [key, value] : object_of(v)) {
    keys.push_back(key);
    const auto type = value.type();
    if ((type == json_type::ARRAY || type == json_type::OBJECT) && !no_repeated_key(r, member(path, key), value)) return false;
  }
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  return twice == keys.end() ? true : r.fail(member(path, *twice), "the key appears twice: send it once", "duplicate_key");
}

std::size_t bytes_of(const decltype(troupe::request::prompt)& p) {
  if (auto* text = std::get_if<text_prompt>(&p)) return text->text.size();
  if (auto* ids = std::get_if<std::vector<std::int32_t>>(&p)) return ids->size() * sizeof(std::int32_t);
  auto& chat = std::get<chat_prompt>(p);
  std::size_t n = chat.tools_json.size() + chat.template_vars_json.size();
  for (auto& m : chat.messages) n += m.role.size() + m.content.size() + m.extra_json.size() + sizeof m;
  return n;
}

bool unknown(field_reader& r, std::string_view name) {
  return r.fail(member({}, name), "unknown field: leave it out", "unknown_field");
}

}  // namespace

troupe::request api_request::without_prompt(std::size_t index) const {
  troupe::request out = common;
  out.sampling.choice = static_cast<std::uint32_t>(index % n);
  if (choices() > 1 && !out.id.empty()) out.id += '-' + std::to_string(index);
  return out;
}

troupe::request api_request::choice(std::size_t index) const {
  troupe::request out = without_prompt(index);
  out.prompt = prompts[index / n];
  return out;
}

troupe::request api_request::take_choice(std::size_t index) {
  troupe::request out = without_prompt(index);
  if ((index + 1) % n == 0) out.prompt = std::move(prompts[index / n]);
  else out.prompt = prompts[index / n];
  return out;
}

class request_parser::impl {
 public:
  impl(parse_limits l, sampling_params s) : limits(l), defaults(std::move(s)) {}

  bool open(field_reader& r, std::string& body, json_object& out) {
    if (!parser) parser = std::make_unique<simdjson::dom::parser>();
    if (!nested) nested = std::make_unique<simdjson::dom::parser>();
    body.reserve(body.size() + simdjson::SIMDJSON_PADDING);
    json_value root;
    auto error = fit(*parser, body.size());
    if (!error) error = parser->parse(body.data(), body.size(), false).get(root);
    if (error) return r.fail({}, "the body is not valid JSON: " + std::string(reason(error)), "invalid_json");
    if (root.type() != json_type::OBJECT) return r.fail({}, "the body is " + std::string(type_name(root)) + ": send a JSON object", "invalid_json");
    out = object_of(root);
    fit(*nested, body.size());
    return no_repeated_key(r, {}, root);
  }

  // Drops what a large body has left, at the end of its parse.
  void close(const std::string& body) {
    if (body.size() < keep_buffers_below) return;
    parser.reset();
    nested.reset();
  }

  parsed<api_request> finish(field_reader& r, api_request& q) {
    if (!r.ok()) return r.take();
    if (q.include_usage && !q.stream) r.fail("stream_options", "only a stream has options: set stream to true or leave them out", "invalid_value");
    if (q.choices() > limits.max_choices)
      r.fail("n", std::to_string(q.choices()) + " choices: ask for at most " + std::to_string(limits.max_choices), "invalid_value");
    std::size_t bytes = 0;
    for (auto& p : q.prompts) bytes += bytes_of(p);
    if (bytes * q.n > limits.max_prompt_bytes)
      r.fail("n", "the prompts of all choices exceed " + std::to_string(limits.max_prompt_bytes) + " bytes: ask for fewer choices", "invalid_value");
    if (!r.ok()) return r.take();
    return std::move(q);
  }

  parse_limits limits;
  sampling_params defaults;
  std::unique_ptr<simdjson::dom::parser> parser;
  std::unique_ptr<simdjson::dom::parser> nested;  ///< for JSON inside strings, while `parser` holds the body

 private:
  // parse() sizes itself for depth 1024; sizing first keeps our own depth.
  static simdjson::error_code fit(simdjson::dom::parser& p, std::size_t bytes) {
    if (p.capacity() >= bytes && p.max_depth() == max_json_depth) return simdjson::SUCCESS;
    return p.allocate(std::max<std::size_t>(bytes, 16384), max_json_depth);
  }
};

request_parser::request_parser(parse_limits limits, sampling_params defaults)
    : impl_(std::make_unique<impl>(limits, std::move(defaults))) {}
request_parser::~request_parser() = default;
request_parser::request_parser(request_parser&&) noexcept = default;
request_parser& request_parser::operator=(request_parser&&) noexcept = default;

parsed<api_request> request_parser::chat(std::string& body) {
  field_reader r;
  api_request q;
  q.common.sampling = impl_->defaults;
  chat_prompt prompt;
  std::optional<std::uint32_t> max_completion_tokens;
  json_object fields;
  if (impl_->open(r, body, fields)) {
    for (auto [name, value] : fields) {
      if (!r.ok()) break;
      if (name == "max_completion_tokens") {
        std::int64_t i = 0;
        if (!is_null(value) && r.integer(name, value, 1, 2147483647, "an integer of 1 or more", i)) max_completion_tokens = static_cast<std::uint32_t>(i);
        continue;
      }
      if (name == "add_special_tokens") {
        bool on = false;  // the template writes what its model wants; adding BOS again would change the prompt
        if (!is_null(value) && r.boolean(name, value, on) && on) r.fail("add_special_tokens", "the chat template adds them: leave it out", "unsupported");
        continue;
      }
      if (read_common_field(r, name, value, q)) continue;
      if (read_template_field(r, *impl_->nested, impl_->limits.max_messages, name, value, prompt)) continue;
      if (!read_inert_field(r, name, value, api_kind::chat)) unknown(r, name);
    }
    if (r.ok() && prompt.messages.empty()) r.fail("messages", "missing: send at least one message", "missing_field");
  }
  impl_->close(body);
  q.kind = api_kind::chat;
  if (max_completion_tokens) q.common.max_tokens = max_completion_tokens;
  q.prompts.emplace_back(std::move(prompt));
  return impl_->finish(r, q);
}

parsed<api_request> request_parser::completion(std::string& body) {
  field_reader r;
  api_request q;
  q.common.sampling = impl_->defaults;
  q.kind = api_kind::completion;
  bool add_special_tokens = true;
  json_object fields;
  if (impl_->open(r, body, fields)) {
    for (auto [name, value] : fields) {
      if (!r.ok()) break;
      if (name == "prompt") {
        read_prompts(r, value, impl_->limits.max_choices, q);
        continue;
      }
      if (name == "add_special_tokens") {
        if (!is_null(value)) r.boolean(name, value, add_special_tokens);
        continue;
      }
      if (read_common_field(r, name, value, q)) continue;
      if (!read_inert_field(r, name, value, api_kind::completion)) unknown(r, name);
    }
    if (r.ok() && q.prompts.empty()) r.fail("prompt", "missing: send a string or token ids", "missing_field");
  }
  impl_->close(body);
  for (auto& p : q.prompts)
    if (auto* text = std::get_if<text_prompt>(&p)) text->add_special_tokens = add_special_tokens;
  if (!q.common.max_tokens) q.common.max_tokens = 16;  // OpenAI's default for this endpoint
  return impl_->finish(r, q);
}

parsed<tokenize_request> request_parser::tokenize(std::string& body) {
  field_reader r;
  tokenize_request q;
  chat_prompt chat;
  std::optional<std::string> text;
  std::optional<bool> add_special;
  bool llama_spelling = false;
  json_object fields;
  if (impl_->open(r, body, fields)) {
    for (auto [name, value] : fields) {
      if (!r.ok()) break;
      bool on = false;
      if (name == "prompt" || name == "content" || name == "text") {
        llama_spelling = name == "content";
        if (text) r.fail(std::string(name), "the text is given twice: send one of prompt, content and text", "invalid_value");
        else r.text(name, value, static_cast<std::size_t>(-1), text.emplace());
      } else if (name == "model") {
        if (!is_null(value)) r.text(name, value, 1024, q.model);
      } else if (name == "add_special_tokens" || name == "add_special") {
        if (!is_null(value) && r.boolean(name, value, on)) add_special = on;
      } else if (name == "parse_special") {
        if (!is_null(value)) r.boolean(name, value, q.parse_special);
      } else if (name == "with_pieces" || name == "return_token_strs") {
        if (!is_null(value) && r.boolean(name, value, on) && on) r.fail(std::string(name), "not supported by this server: leave it out", "unsupported");
      } else if (!read_template_field(r, *impl_->nested, impl_->limits.max_messages, name, value, chat)) {
        if (!read_inert_field(r, name, value, api_kind::chat)) unknown(r, name);
      }
    }
    if (r.ok() && !text && chat.messages.empty()) r.fail("prompt", "missing: send prompt or messages", "missing_field");
    if (r.ok() && text && !chat.messages.empty()) r.fail("messages", "both a text and messages: send one of them", "invalid_value");
  }
  impl_->close(body);
  if (!r.ok()) return r.take();
  // Each spelling keeps the default of the server that it comes from; a rendered chat holds its special tokens already.
  q.add_special_tokens = add_special.value_or(text && !llama_spelling);
  if (text) q.prompt = text_prompt{std::move(*text), q.add_special_tokens, q.parse_special};
  else q.prompt = std::move(chat);
  return q;
}

parsed<detokenize_request> request_parser::detokenize(std::string& body) {
  field_reader r;
  detokenize_request q;
  bool given = false;
  json_object fields;
  if (impl_->open(r, body, fields)) {
    for (auto [name, value] : fields) {
      if (!r.ok()) break;
      if (name == "tokens") given = r.token_ids(name, value, static_cast<std::size_t>(-1), q.tokens);
      else if (name == "model") is_null(value) || r.text(name, value, 1024, q.model);
      else if (name == "skip_special_tokens") is_null(value) || r.boolean(name, value, q.skip_special_tokens);
      else unknown(r, name);
    }
    if (r.ok() && !given) r.fail("tokens", "missing: send an array of token ids", "missing_field");
  }
  impl_->close(body);
  if (!r.ok()) return r.take();
  return q;
}

}  // namespace troupe::wire
