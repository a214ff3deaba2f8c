#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_iter.hpp"
#include "src/text/jinja_loop.hpp"
#include "src/text/jinja_ops.hpp"

/// Methods of dict, list, tuple, range, loop, cycler, float, and of the function dict.
namespace troupe::text::jinja {

namespace {

value dict_get(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "get", args, {"", ""}, 1);
  if (!a.ok()) return {};
  if (!hashable(a[0])) return rt.error(fmt::format("unhashable type: '{}'", type_name(a[0])));
  if (!rt.step(weight_of(a[0]))) return {};
  if (const value* found = self.as<dict_object>().find(a[0])) return *found;
  return a.has(1) ? a[1] : value::none();
}

template <view_kind What>
value dict_view(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "keys, values, items", args, {});
  return a.ok() ? rt.view(self, What) : value();
}

value same_again(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "copy", args, {});
  return a.ok() ? self : value();
}

value sequence_count(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "count", args, {""}, 1);
  std::int64_t n = 0;
  auto it = a.ok() ? iterate(rt, self) : nullptr;
  value v;
  while (it && it->next(rt, v)) n += same_object(v, a[0]) || rt.same(v, a[0]);
  return value::integer(n);
}

value sequence_index(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "index", args, {"", "", ""}, 1);
  std::int64_t from = a.integer(1, 0), to = a.integer(2, INT64_MAX);
  const std::int64_t n = length(rt, self);
  if (!a.ok() || !rt.ok()) return {};
  if (from < 0) from = std::max<std::int64_t>(from + n, 0);
  if (to < 0) to += n;
  auto it = iterate(rt, self);
  value v;
  for (std::int64_t i = 0; i < to && it && it->next(rt, v); ++i) {
    if (i >= from && (same_object(v, a[0]) || rt.same(v, a[0]))) return value::integer(i);
  }
  return rt.error("index: the value is not in the list");
}

value is_integer(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "is_integer", args, {});
  const double d = self.as_real();
  return value::boolean(a.ok() && std::isfinite(d) && d == std::floor(d));
}

value loop_cycle(runtime& rt, const value& self, const call_args& args) {
  if (args.positional.empty() || !args.named.empty()) return rt.error("loop.cycle: no items for cycling given");
  const auto n = static_cast<std::int64_t>(args.positional.size());
  const std::int64_t i = std::max<std::int64_t>(self.as<loop_object>().index0, 0);
  return args.positional[static_cast<std::size_t>(i % n)];
}

value loop_changed(runtime& rt, const value& self, const call_args& args) {
  if (!args.named.empty()) return rt.error("loop.changed() takes no keyword arguments");
  if (!rt.spend(args.positional.size() * sizeof(value))) return {};
  return value::boolean(self.mut<loop_object>().changed(rt, args.positional));
}

value cycler_next(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "next", args, {});
  auto& c = self.mut<cycler_object>();
  const value now = c.items[c.at];
  if (a.ok()) c.at = (c.at + 1) % c.items.size();
  return now;
}

value cycler_reset(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "reset", args, {});
  if (a.ok()) self.mut<cycler_object>().at = 0;
  return value::none();
}

/// dict.fromkeys(keys, value)
value dict_fromkeys(runtime& rt, const value&, const call_args& args) {
  bound_args a(rt, "fromkeys", args, {"", ""}, 1);
  auto out = std::make_shared<dict_object>();
  auto it = a.ok() ? iterate(rt, a[0]) : nullptr;
  value key;
  while (it && it->next(rt, key) && rt.set(*out, key, a.has(1) ? a[1] : value::none())) {
  }
  return rt.ok() ? rt.dict(std::move(out)) : value();
}

const method_entry dict_methods[] = {
    {"get", dict_get},
    {"items", dict_view<view_kind::items>},
    {"keys", dict_view<view_kind::keys>},
    {"values", dict_view<view_kind::values>},
    {"copy", same_again},
    {"fromkeys", dict_fromkeys},
};
const method_entry list_methods[] = {{"count", sequence_count}, {"index", sequence_index}, {"copy", same_again}};
const method_entry tuple_methods[] = {{"count", sequence_count}, {"index", sequence_index}};
const method_entry loop_methods[] = {{"cycle", loop_cycle}, {"changed", loop_changed}};
const method_entry cycler_methods[] = {{"next", cycler_next}, {"reset", cycler_reset}};
const method_entry real_methods[] = {{"is_integer", is_integer}};
const method_entry function_methods[] = {{"fromkeys", dict_fromkeys}};

}  // namespace

const method_entry* find_method(const value& self, std::string_view name) {
  switch (self.type()) {
    case kind::string:
      return find_text_method(name);
    case kind::dict:
      return find_entry(dict_methods, name);
    case kind::list:
      return find_entry(list_methods, name);
    case kind::tuple:
    case kind::range:
      return find_entry(tuple_methods, name);
    case kind::loop:
      return find_entry(loop_methods, name);
    case kind::cycler:
      return find_entry(cycler_methods, name);
    case kind::real:
      return find_entry(real_methods, name);
    case kind::function:
      return self.as<function_object>().entry->name == "dict" ? find_entry(function_methods, name) : nullptr;
    default:
      return nullptr;
  }
}

bool is_refused_method(const value& self, std::string_view name) {
  static constexpr std::string_view of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
  static constexpr std::string_view of_list[] = {"append", "clear", "pop",    "reverse",
                                                 "insert", "sort",  "extend", "remove"};
  if (self.is(kind::dict)) return std::find(std::begin(of_dict), std::end(of_dict), name) != std::end(of_dict);
  if (self.is(kind::list)) return std::find(std::begin(of_list), std::end(of_list), name) != std::end(of_list);
  return false;
}

}  // namespace troupe::text::jinja
