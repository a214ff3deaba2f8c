#include "src/text/chat_template.hpp"

#include <fmt/format.h>

#include "src/text/jinja_json.hpp"
#include "src/text/jinja_unicode.hpp"

namespace troupe::text {

namespace {

using jinja::dict_object;
using jinja::kind;
using jinja::list_object;
using jinja::value;

value dict_of(std::shared_ptr<dict_object> d) { return value::of(kind::dict, std::move(d)); }

/// The reasoning of a message has several names; templates read one of them. As transformers
/// (utils/chat_template_utils.py, _alias_reasoning_fields): reasoning_content always, thinking unless it is there.
value with_reasoning(const value& message) {
  const auto& from = message.as<dict_object>();
  const value* reasoning = nullptr;
  for (std::string_view name : {"reasoning_content", "thinking", "reasoning"}) {
    const value* v = from.find(name);
    if (v && !v->is_none()) {
      reasoning = v;
      break;
    }
  }
  if (!reasoning) return message;
  auto out = std::make_shared<dict_object>();
  out->set(value::raw_text("thinking"), *reasoning);
  for (const auto& [k, v] : from.items) out->set(k, v);
  out->set(value::raw_text("reasoning_content"), *reasoning);
  return dict_of(std::move(out));
}

result<value> list_of_messages(const std::vector<value>& messages) {
  auto out = std::make_shared<list_object>();
  for (const value& m : messages) {
    if (!m.is(kind::dict)) {
      return failure(errc::invalid_argument,
                     fmt::format("messages[{}]: not an object: give role and content", out->items.size()));
    }
    out->items.push_back(with_reasoning(m));
    out->hold(out->items.back());
  }
  return value::of(kind::list, std::move(out));
}

result<chat_context> with_tools(value messages, std::string_view tools, std::string_view variables,
                                const jinja::limits& bounds) {
  chat_context out;
  out.messages = std::move(messages);
  out.tools = value::none();
  if (!tools.empty()) {
    auto parsed = jinja::parse_json(tools, "tools", bounds);
    if (!parsed) return parsed.take_error();
    if (!parsed->is(kind::list) && !parsed->is_none()) {
      return failure(errc::invalid_argument, "tools: not an array: give an array of function descriptions");
    }
    out.tools = std::move(*parsed);
  }
  out.variables = dict_of(std::make_shared<dict_object>());
  if (!variables.empty()) {
    auto parsed = jinja::parse_json(variables, "template variables", bounds);
    if (!parsed) return parsed.take_error();
    if (!parsed->is(kind::dict)) {
      return failure(errc::invalid_argument, "template variables: not an object: give names and values");
    }
    out.variables = std::move(*parsed);
  }
  return out;
}

}  // namespace

result<chat_context> chat_context::from_json(std::string_view messages, std::string_view tools,
                                             std::string_view variables, const jinja::limits& bounds) {
  auto parsed = jinja::parse_json(messages, "messages", bounds);
  if (!parsed) return parsed.take_error();
  if (!parsed->is(kind::list))
    return failure(errc::invalid_argument, "messages: not an array: give an array of messages");
  auto list = list_of_messages(parsed->items());
  if (!list) return list.take_error();
  return with_tools(std::move(*list), tools, variables, bounds);
}

result<chat_context> chat_context::from_prompt(const chat_prompt& prompt, const jinja::limits& bounds) {
  std::vector<value> messages;
  for (const chat_message& m : prompt.messages) {
    if (!jinja::uni::valid(m.role) || !jinja::uni::valid(m.content)) {
      return failure(errc::invalid_argument,
                     fmt::format("messages[{}]: role or content is not UTF-8: encode it so", messages.size()));
    }
    auto d = std::make_shared<dict_object>();
    d->set(value::raw_text("role"), value::raw_text(m.role));
    d->set(value::raw_text("content"), value::raw_text(m.content));
    if (!m.extra_json.empty()) {
      const std::string what = fmt::format("messages[{}]", messages.size());
      auto extra = jinja::parse_json(m.extra_json, what, bounds);
      if (!extra) return extra.take_error();
      if (!extra->is(kind::dict)) {
        return failure(errc::invalid_argument, what + ": the extra fields are not an object: give names and values");
      }
      for (const auto& [k, v] : extra->as<dict_object>().items) {
        if (k.text() != "role" && k.text() != "content") d->set(k, v);
      }
    }
    messages.push_back(dict_of(std::move(d)));
  }
  auto list = list_of_messages(messages);
  if (!list) return list.take_error();
  auto out = with_tools(std::move(*list), prompt.tools_json, prompt.template_vars_json, bounds);
  if (out) out->add_generation_prompt = prompt.add_generation_prompt;
  return out;
}

result<chat_template> chat_template::parse(std::string_view source, const jinja::options& how) {
  auto p = jinja::program::parse(source, how);
  if (!p) return p.take_error();
  return chat_template(std::string(source), std::move(*p));
}

result<std::string> chat_template::render(const chat_context& context) const {
  auto all = std::make_shared<dict_object>();
  auto set = [&](std::string_view name, const value& v) { all->set(value::raw_text(std::string(name)), v); };
  set("documents", value::none());
  for (const auto& [name, text] : context.special_tokens) set(name, value::raw_text(text));
  if (context.variables.is(kind::dict)) {
    for (const auto& [k, v] : context.variables.as<dict_object>().items) all->set(k, v);
  }
  set("messages", context.messages);
  set("tools", context.tools);
  set("add_generation_prompt", value::boolean(context.add_generation_prompt));
  return program_.render(dict_of(std::move(all)), context.now);
}

}  // namespace troupe::text
