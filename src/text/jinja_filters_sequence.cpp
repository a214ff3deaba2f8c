#include <fmt/format.h>

#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_iter.hpp"
#include "src/text/jinja_ops.hpp"
#include "src/text/jinja_sort.hpp"
#include "src/text/jinja_unicode.hpp"

/// Filters over sequences and mappings that give their result at once.
namespace troupe::text::jinja {

namespace {

value ignore_case(runtime& rt, const value& v) {
  if (!v.is_string() || !rt.scan(v.text().size() * 8)) return v;
  return rt.text(uni::lower(v.text()));
}

value count(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "length", args, {});
  return a.ok() ? value::integer(length(rt, v)) : value();
}

value first(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "first", args, {});
  auto it = a.ok() ? iterate(rt, v) : nullptr;
  value out;
  if (it && it->next(rt, out)) return out;
  return value::undefined("No first item, sequence was empty.");
}

value last(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "last", args, {});
  if (!a.ok()) return {};
  if (!is_iterable(v) || v.is(kind::generator) || v.is(kind::loop)) {
    return rt.error(fmt::format("'{}' object is not reversible", type_name(v)));
  }
  value out = value::undefined("No last item, sequence was empty.");
  if (v.is_sequence() || v.is_string() || v.is(kind::range)) {
    item_at(rt, v, -1, out);
    return out;
  }
  std::vector<value> all = collect(rt, v);
  return all.empty() ? out : all.back();
}

value as_list(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "list", args, {});
  if (!a.ok()) return {};
  std::vector<value> all = collect(rt, v);
  return rt.ok() ? rt.list(std::move(all)) : value();
}

value otherwise(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "default", args, {"default_value", "boolean"});
  if (!a.ok()) return {};
  if (!v.is_undefined() && !(a.flag(1, false) && !truth(v))) return v;
  return a.has(0) ? a[0] : rt.text("");
}

value attr(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "attr", args, {"name"}, 1);
  const std::string name = a.string(0, "");
  if (!a.ok()) return {};
  if (v.is_undefined()) return rt.use_of_undefined(v);
  value out;
  if (own_attribute(rt, v, name, out)) return out;
  return value::undefined(fmt::format("'{}' has no attribute '{}'", describe_object(v), name));
}

struct keyed {
  value key, item;
};

/// Python's sorted(): equal items keep their order, also in reverse.
void sort_keyed(runtime& rt, std::vector<keyed>& all, bool reverse) {
  if (reverse) {
    sort_stably(all, [&](const keyed& x, const keyed& y) { return less(rt, y.key, x.key); });
  } else {
    sort_stably(all, [&](const keyed& x, const keyed& y) { return less(rt, x.key, y.key); });
  }
}

value items_of(runtime& rt, std::vector<keyed>& all) {
  std::vector<value> out;
  out.reserve(all.size());
  for (keyed& k : all) out.push_back(std::move(k.item));
  return rt.ok() ? rt.list(std::move(out)) : value();
}

value dict_sort(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string by = a.string(1, "key");
  if (a.ok() && by != "key" && by != "value") return rt.error("dictsort sorts by \"key\" or \"value\"");
  if (!a.ok()) return {};
  if (v.is_undefined()) return rt.use_of_undefined(v);
  if (!v.is(kind::dict)) return rt.error(fmt::format("dictsort wants a mapping, not '{}'", type_name(v)));
  std::vector<keyed> all;
  for (const auto& [k, x] : v.as<dict_object>().items) {
    if (!rt.step() || !rt.spend(2 * sizeof(value))) return {};
    const value& by_this = by == "key" ? k : x;
    all.push_back({a.flag(0, false) ? by_this : ignore_case(rt, by_this), rt.tuple({k, x})});
  }
  sort_keyed(rt, all, a.flag(2, false));
  return items_of(rt, all);
}

/// The key of sort for one item: a list with one entry per attribute, also for one, because lists compare their items
/// for equality first: undefined items sort, although they have no order.
value sort_key(runtime& rt, const std::vector<attribute_path>& paths, const value& v, bool case_sensitive) {
  std::vector<value> key;
  for (const attribute_path& p : paths) {
    const value k = p.of(rt, v);
    key.push_back(case_sensitive ? k : ignore_case(rt, k));
  }
  return rt.list(std::move(key));
}

value sort(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "sort", args, {"reverse", "case_sensitive", "attribute"});
  if (!a.ok()) return {};
  std::vector<attribute_path> paths;
  if (a[2].is_string()) {
    std::string_view rest = a[2].text();
    for (std::size_t comma = 0; comma != std::string_view::npos && rt.step();) {
      comma = rest.find(',');
      paths.emplace_back(rt, rt.text(std::string(rest.substr(0, comma))));
      if (comma != std::string_view::npos) rest.remove_prefix(comma + 1);
    }
  } else {
    paths.emplace_back(rt, a[2]);
  }
  std::vector<keyed> all;
  auto it = iterate(rt, v);
  value item;
  while (it && it->next(rt, item) && rt.spend(2 * sizeof(value))) {
    value key = sort_key(rt, paths, item, a.flag(1, false));
    all.push_back({std::move(key), std::move(item)});
  }
  if (rt.ok()) sort_keyed(rt, all, a.flag(0, false));
  return items_of(rt, all);
}

value group_by(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "groupby", args, {"attribute", "default", "case_sensitive"}, 1);
  if (!a.ok()) return {};
  attribute_path path(rt, a[0]);
  path.otherwise = a[1];
  const bool sensitive = a.flag(2, false);
  std::vector<keyed> all;
  auto it = iterate(rt, v);
  value item;
  while (it && it->next(rt, item) && rt.spend(2 * sizeof(value))) {
    const value key = path.of(rt, item);
    all.push_back({sensitive ? key : ignore_case(rt, key), std::move(item)});
  }
  if (rt.ok()) sort_keyed(rt, all, false);
  std::vector<value> groups;
  for (std::size_t i = 0; i < all.size() && rt.ok();) {
    const std::size_t start = i;
    std::vector<value> members;
    while (i < all.size() && rt.same(all[start].key, all[i].key)) members.push_back(all[i++].item);
    if (members.empty()) members.push_back(all[i++].item);  // a key that does not equal itself: NaN
    const value shown = sensitive ? all[start].key : path.of(rt, members.front());
    value group = rt.tuple({shown, rt.list(std::move(members))});
    if (rt.ok()) group.mut<list_object>().group = true;
    groups.push_back(std::move(group));
  }
  return rt.ok() ? rt.list(std::move(groups)) : value();
}

value extreme(runtime& rt, const value& v, const call_args& args, bool largest) {
  bound_args a(rt, largest ? "max" : "min", args, {"case_sensitive", "attribute"});
  if (!a.ok()) return {};
  attribute_path path(rt, a[1]);
  auto it = iterate(rt, v);
  value item, best, best_key;
  bool any = false;
  while (it && it->next(rt, item)) {
    value key = path.of(rt, item);
    if (!a.flag(0, false)) key = ignore_case(rt, key);
    if (!any || (largest ? less(rt, best_key, key) : less(rt, key, best_key))) {
      best = item;
      best_key = key;
    }
    any = true;
  }
  return any ? best : value::undefined("No aggregated item, sequence was empty.");
}

value sum(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "sum", args, {"attribute", "start"});
  if (!a.ok()) return {};
  attribute_path path(rt, a[0]);
  value total = a.has(1) ? a[1] : value::integer(0);
  if (total.is_string()) return rt.error("sum cannot add strings: use join");
  auto it = iterate(rt, v);
  value item;
  while (it && it->next(rt, item)) total = arithmetic(rt, binary_op::add, std::move(total), path.of(rt, item));
  return total;
}

const filter_entry filters[] = {
    {"length", count},
    {"count", count},
    {"default", otherwise},
    {"d", otherwise},
    {"first", first},
    {"last", last},
    {"list", as_list},
    {"attr", attr},
    {"dictsort", dict_sort},
    {"sort", sort},
    {"groupby", group_by},
    {"min", [](runtime& rt, const value& v, const call_args& a) { return extreme(rt, v, a, false); }},
    {"max", [](runtime& rt, const value& v, const call_args& a) { return extreme(rt, v, a, true); }},
    {"sum", sum},
};

}  // namespace

const filter_entry* find_sequence_filter(std::string_view name) { return find_entry(filters, name); }

const filter_entry* find_filter(std::string_view name) {
  for (auto* find : {find_text_filter, find_sequence_filter, find_select_filter, find_number_filter}) {
    if (const filter_entry* e = find(name)) return e;
  }
  return nullptr;
}

}  // namespace troupe::text::jinja
