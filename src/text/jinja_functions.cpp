#include <fmt/format.h>

#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_date.hpp"
#include "src/text/jinja_iter.hpp"
#include "src/text/jinja_repr.hpp"

/// The global functions of transformers' chat template environment.
namespace troupe::text::jinja {

namespace {

value range(runtime& rt, const call_args& args) {
  bound_args a(rt, "range", args, {"", "", ""}, 1);
  for (std::size_t i = 0; i < args.positional.size() && a.ok(); ++i) {
    if (!a[i].is_integral()) {
      if (a[i].is_undefined()) return rt.use_of_undefined(a[i]);
      return rt.error(fmt::format("range() wants whole numbers, not '{}'", type_name(a[i])));
    }
  }
  if (!a.ok()) return {};
  if (!a.has(1)) return rt.range(0, a[0].as_integer(), 1);
  return rt.range(a[0].as_integer(), a[1].as_integer(), a.integer(2, 1));
}

/// What dict() and namespace() take: a mapping or pairs, then keyword arguments.
bool fill(runtime& rt, const char* name, const call_args& args, dict_object& out) {
  if (args.positional.size() > 1) {
    rt.error(fmt::format("{}() takes at most one positional argument", name));
    return false;
  }
  if (!args.positional.empty()) {
    const value& from = args.positional.front();
    if (from.is(kind::dict)) {
      for (const auto& [k, v] : from.as<dict_object>().items) {
        if (!rt.step() || !rt.set(out, k, v)) return false;
      }
    } else {
      auto it = iterate(rt, from);
      value pair;
      while (it && it->next(rt, pair)) {
        const std::vector<value> kv = collect(rt, pair);
        if (rt.ok() && kv.size() != 2) rt.error(fmt::format("{}() wants pairs", name));
        if (!rt.ok() || !rt.set(out, kv[0], kv[1])) return false;
      }
    }
  }
  for (const auto& [k, v] : args.named) {
    if (!rt.set(out, rt.text(k), v)) return false;
  }
  return rt.ok();
}

value make_dict(runtime& rt, const call_args& args) {
  auto out = std::make_shared<dict_object>();
  return fill(rt, "dict", args, *out) ? rt.dict(std::move(out)) : value();
}

value make_namespace(runtime& rt, const call_args& args) {
  value out = rt.space();
  if (!rt.ok() || !fill(rt, "namespace", args, out.mut<space_object>().attributes)) return {};
  for (const auto& [k, v] : out.as<space_object>().attributes.items) {
    if (k.is_string() && !k.text().empty() && k.text()[0] == '_') {
      return rt.error(fmt::format("a namespace takes no name with an underscore in front ('{}')", k.text()));
    }
  }
  return out;
}

value make_cycler(runtime& rt, const call_args& args) {
  if (!args.named.empty()) return rt.error("cycler() takes no keyword arguments");
  return rt.cycler(args.positional);
}

value make_joiner(runtime& rt, const call_args& args) {
  bound_args a(rt, "joiner", args, {"sep"});
  return a.ok() ? rt.joiner(a.has(0) ? a[0] : rt.text(", ")) : value();
}

value raise_exception(runtime& rt, const call_args& args) {
  bound_args a(rt, "raise_exception", args, {"message"}, 1);
  if (!a.ok()) return {};
  std::string message = to_text(rt, a[0]);
  return rt.ok() ? rt.raise(std::move(message)) : value();
}

value strftime_now(runtime& rt, const call_args& args) {
  bound_args a(rt, "strftime_now", args, {"format"}, 1);
  const std::string format = a.string(0, "");
  if (!a.ok() || !rt.scan(format.size() * 8)) return {};
  std::string out;
  for (std::size_t at = 0; at < format.size() && rt.may_hold(out.size());) format_time(*rt.now, format, at, out);
  return rt.text(std::move(out));
}

const function_entry functions[] = {
    {"range", range},
    {"dict", make_dict},
    {"namespace", make_namespace},
    {"cycler", make_cycler},
    {"joiner", make_joiner},
    {"raise_exception", raise_exception},
    {"strftime_now", strftime_now},
};

}  // namespace

const function_entry* find_function(std::string_view name) { return find_entry(functions, name); }

}  // namespace troupe::text::jinja
