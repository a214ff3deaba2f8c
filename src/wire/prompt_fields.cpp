// Fields of a request that say what is asked: messages and tools of a chat, or prompts.
#include "src/wire/fields.hpp"
#include "src/wire/json_text.hpp"

namespace troupe::wire {
namespace {

constexpr std::size_t any_length = static_cast<std::size_t>(-1);

void append_member(std::string& object, std::string_view name, std::string_view json) {
  object += object.empty() ? '{' : ',';
  append_string(object, name);
  object += ':';
  object += json;
}

/// The parts of a message, joined by line ends, as servers do for templates that know only strings.
bool read_parts(field_reader& r, const std::string& path, json_array parts, std::string& out) {
  std::size_t i = 0;
  for (json_value part : parts) {
    const std::string at = indexed(path, i);
    std::string_view type, text;
    if (part.type() != json_type::OBJECT) return r.mismatch(at, part, "an object with type and text");
    if (object_of(part)["type"].get_string().get(type) != simdjson::SUCCESS)
      return r.fail(member(at, "type"), "missing or not a string: send \"text\"", "missing_field");
    if (type != "text" && type != "input_text" && type != "output_text")
      return r.fail(member(at, "type"), "this model reads text only: send parts of type \"text\"", "unsupported");
    if (object_of(part)["text"].get_string().get(text) != simdjson::SUCCESS)
      return r.fail(member(at, "text"), "missing or not a string: send the text", "missing_field");
    if (i++) out += '\n';
    out += text;
  }
  return true;
}

/// Tool calls as templates want them: OpenAI sends a call's arguments as a string that holds JSON, templates walk them.
bool read_tool_calls(field_reader& r, simdjson::dom::parser& nested, const std::string& path, json_value v, std::string& json) {
  if (v.type() != json_type::ARRAY) return r.mismatch(path, v, "an array of tool calls");
  json = "[";
  std::size_t i = 0;
  for (json_value call : array_of(v)) {
    const std::string at = indexed(path, i);
    json_object function;
    std::string_view name;
    if (call.type() != json_type::OBJECT) return r.mismatch(at, call, "an object");
    if (object_of(call)["function"].get_object().get(function) != simdjson::SUCCESS)
      return r.fail(member(at, "function"), "missing or not an object: send the function's name and arguments", "missing_field");
    if (function["name"].get_string().get(name) != simdjson::SUCCESS)
      return r.fail(at + ".function.name", "missing or not a string: send the function's name", "missing_field");
    std::string call_json, function_json;
    for (auto [key, value] : function) {
      if (key != "arguments" || value.type() != json_type::STRING) {
        append_member(function_json, key, simdjson::to_string(value));
        continue;
      }
      const auto text = string_of(value);
      std::string_view arguments = text.empty() ? std::string_view("{}") : text;
      json_value parsed;
      if (nested.parse(arguments.data(), arguments.size(), true).get(parsed) != simdjson::SUCCESS || parsed.type() != json_type::OBJECT)
        return r.fail(at + ".function.arguments", "not a JSON object: send the arguments as the model wrote them", "invalid_value");
      append_member(function_json, key, simdjson::to_string(parsed));
    }
    for (auto [key, value] : object_of(call))
      append_member(call_json, key, key == "function" ? function_json + '}' : simdjson::to_string(value));
    if (i++) json += ',';
    json += call_json + '}';
  }
  json += ']';
  return true;
}

bool read_message(field_reader& r, simdjson::dom::parser& nested, const std::string& path, json_value v, chat_message& out) {
  if (v.type() != json_type::OBJECT) return r.mismatch(path, v, "an object with role and content");
  bool has_content = false, has_calls = false;
  std::string extra;
  for (auto [key, value] : object_of(v)) {
    const std::string at = member(path, key);
    if (key == "role") {
      if (!r.text(at, value, 64, out.role)) return false;
    } else if (key == "content") {
      if (is_null(value)) continue;
      has_content = true;
      if (value.type() == json_type::STRING) out.content.assign(string_of(value));
      else if (value.type() != json_type::ARRAY) return r.mismatch(at, value, "a string or an array of text parts");
      else if (!read_parts(r, at, array_of(value), out.content)) return false;
    } else if (is_null(value)) {
      continue;  // what a client library writes for «not there»; templates ask `is defined`
    } else if (key == "tool_calls") {
      std::string json;
      if (!read_tool_calls(r, nested, at, value, json)) return false;
      if (json == "[]") continue;
      has_calls = true;
      append_member(extra, key, json);
    } else {
      append_member(extra, key, simdjson::to_string(value));
    }
  }
  if (out.role.empty()) return r.fail(path + ".role", "missing: send system, user, assistant or tool", "missing_field");
  if (!has_content && !has_calls && out.role != "assistant")
    return r.fail(path + ".content", "missing: send a string or an array of text parts", "missing_field");
  if (!extra.empty()) out.extra_json = extra + '}';
  return true;
}

bool read_tools(field_reader& r, json_value v, std::string& out) {
  constexpr std::size_t most = 1024;
  if (v.type() != json_type::ARRAY) return r.mismatch("tools", v, "an array of tools");
  std::size_t i = 0;
  for (json_value tool : array_of(v)) {
    const std::string at = indexed("tools", i);
    if (i++ == most) return r.fail("tools", "more than 1024 tools: send fewer", "invalid_value");
    std::string_view type, name;
    json_object function;
    if (tool.type() != json_type::OBJECT) return r.mismatch(at, tool, "an object with type and function");
    if (object_of(tool)["type"].get_string().get(type) != simdjson::SUCCESS || type != "function")
      return r.fail(member(at, "type"), "only \"function\" is supported: send it", "unsupported");
    if (object_of(tool)["function"].get_object().get(function) != simdjson::SUCCESS)
      return r.fail(member(at, "function"), "missing or not an object: send name, description and parameters", "missing_field");
    if (function["name"].get_string().get(name) != simdjson::SUCCESS || name.empty())
      return r.fail(at + ".function.name", "missing or not a string: name the function", "missing_field");
  }
  out = i ? simdjson::to_string(v) : std::string();
  return true;
}

}  // namespace

bool read_template_field(field_reader& r, simdjson::dom::parser& nested, std::uint32_t max_messages, std::string_view name,
                         json_value v, chat_prompt& out) {
  if (name == "messages") {
    if (v.type() != json_type::ARRAY) return r.mismatch(name, v, "an array of messages"), true;
    for (json_value message : array_of(v)) {
      if (out.messages.size() == max_messages)
        return r.fail("messages", "more than " + std::to_string(max_messages) + " messages: send fewer", "invalid_value"), true;
      const std::string at = indexed(name, out.messages.size());
      if (!read_message(r, nested, at, message, out.messages.emplace_back())) return true;
    }
    if (out.messages.empty()) r.fail("messages", "empty: send at least one message", "invalid_value");
  } else if (name == "tools") {
    if (!is_null(v)) read_tools(r, v, out.tools_json);
  } else if (name == "tool_choice") {
    if (is_null(v)) return true;
    if (v.type() != json_type::STRING || (string_of(v) != "none" && string_of(v) != "auto"))
      r.fail("tool_choice", "only \"none\" and \"auto\" are supported: send one of them", "unsupported");
  } else if (name == "chat_template_kwargs") {
    if (is_null(v)) return true;
    if (v.type() != json_type::OBJECT) r.mismatch(name, v, "an object");
    else if (!is_empty(v)) out.template_vars_json = simdjson::to_string(v);
  } else if (name == "add_generation_prompt") {
    if (!is_null(v)) r.boolean(name, v, out.add_generation_prompt);
  } else {
    return false;
  }
  return true;
}

bool read_prompts(field_reader& r, json_value v, std::uint32_t max_prompts, api_request& out) {
  constexpr std::string_view expected = "a string, an array of strings, an array of token ids, or an array of such arrays";
  const auto add_text = [&](std::string_view param, json_value e) {
    text_prompt p;
    if (!r.text(param, e, any_length, p.text)) return false;
    out.prompts.emplace_back(std::move(p));
    return true;
  };
  const auto add_ids = [&](std::string_view param, json_value e) {
    std::vector<std::int32_t> ids;
    if (!r.token_ids(param, e, any_length, ids)) return false;
    if (ids.empty()) return r.fail(std::string(param), "empty: send at least one token id", "invalid_value");
    out.prompts.emplace_back(std::move(ids));
    return true;
  };
  out.prompts.clear();
  if (v.type() == json_type::STRING) return add_text("prompt", v);
  if (v.type() != json_type::ARRAY) return r.mismatch("prompt", v, expected);
  if (is_empty(v)) return r.fail("prompt", "empty: send " + std::string(expected), "invalid_value");
  const json_type kind = (*array_of(v).begin()).type();
  if (kind != json_type::STRING && kind != json_type::ARRAY) return add_ids("prompt", v);
  for (json_value e : array_of(v)) {
    const std::string at = indexed("prompt", out.prompts.size());
    if (out.prompts.size() == max_prompts)
      return r.fail("prompt", "more than " + std::to_string(max_prompts) + " prompts: send fewer", "invalid_value");
    if (!(kind == json_type::STRING ? add_text(at, e) : add_ids(at, e))) return false;
  }
  return true;
}

}  // namespace troupe::wire
