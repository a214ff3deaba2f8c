#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_iter.hpp"
#include "src/text/jinja_ops.hpp"
#include "src/text/jinja_strings.hpp"
#include "src/text/jinja_unicode.hpp"

/// Filters that give their items one by one, as Python generators do: they do nothing until they are walked.
namespace troupe::text::jinja {

attribute_path::attribute_path(runtime& rt, const value& attribute) {
  if (attribute.is_undefined() || attribute.is_none()) return;
  if (!attribute.is_string()) {
    parts_.push_back(attribute);
    return;
  }
  std::string_view rest = attribute.text();
  while (rt.step()) {
    const std::size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    const bool digits = !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
    const auto number = digits ? to_integer(part, 10) : std::nullopt;
    parts_.push_back(number ? value::integer(*number) : rt.text(std::string(part)));
    if (dot == std::string_view::npos) break;
    rest.remove_prefix(dot + 1);
  }
}

value attribute_path::of(runtime& rt, const value& item) const {
  value v = item;
  for (const value& part : parts_) {
    v = jinja::item(rt, v, part);
    if (v.is_undefined() && !otherwise.is_undefined() && !otherwise.is_none()) v = otherwise;
  }
  return v;
}

namespace {

/// Walks the source on demand; an empty source is not even asked for its kind.
struct lazy_iterator : iterator {
  explicit lazy_iterator(value v) : source(std::move(v)) {}

  bool pull(runtime& rt, value& out) {
    if (!started) {
      started = true;
      if (truth(source)) items = iterate(rt, source);
    }
    return items && items->next(rt, out);
  }

  value source;
  std::unique_ptr<iterator> items;
  bool started = false;
};

struct map_iterator : lazy_iterator {
  using lazy_iterator::lazy_iterator;
  bool next(runtime& rt, value& out) override {
    if (!error.empty()) {
      if (truth(source)) rt.error(error);
      return false;
    }
    value v;
    if (!pull(rt, v)) return false;
    out = filter ? filter->run(rt, v, args) : path->of(rt, v);
    return rt.ok();
  }
  const filter_entry* filter = nullptr;
  call_args args;
  std::unique_ptr<attribute_path> path;
  std::string error;  // a wrong call fails when it is walked, and not at all over nothing
};

value map(runtime& rt, const value& v, const call_args& args) {
  auto it = std::make_unique<map_iterator>(v);
  if (args.positional.empty()) {
    const value* name = nullptr;
    value otherwise;
    for (const auto& [key, x] : args.named) {
      if (key == "attribute") {
        name = &x;
      } else if (key == "default") {
        otherwise = x;
      } else if (it->error.empty()) {
        it->error = fmt::format("map got an unexpected keyword argument '{}'", key);
      }
    }
    if (!name) {
      it->error = "map requires a filter argument";
    } else {
      it->path = std::make_unique<attribute_path>(rt, *name);
      it->path->otherwise = otherwise;
    }
  } else if (!args.positional[0].is_string()) {
    it->error = "map wants the name of a filter";
  } else {
    it->filter = find_filter(args.positional[0].text());
    if (!it->filter) it->error = fmt::format("there is no filter named '{}'", args.positional[0].text());
    it->args.positional.assign(args.positional.begin() + 1, args.positional.end());
    it->args.named = args.named;
  }
  return rt.generator(std::move(it), v, args);
}

struct select_iterator : lazy_iterator {
  using lazy_iterator::lazy_iterator;
  bool next(runtime& rt, value& out) override {
    if (!error.empty()) {
      if (truth(source)) rt.error(error);
      return false;
    }
    value v;
    while (rt.ok() && pull(rt, v)) {
      const value tested = path ? path->of(rt, v) : v;
      const bool good = test ? test->run(rt, tested, args) : truth(tested);
      if (rt.ok() && good == wanted) {
        out = std::move(v);
        return true;
      }
    }
    return false;
  }
  bool wanted = true;
  const test_entry* test = nullptr;
  call_args args;
  std::unique_ptr<attribute_path> path;
  std::string error;
};

value select(runtime& rt, const value& v, const call_args& args, bool wanted, bool by_attribute) {
  auto it = std::make_unique<select_iterator>(v);
  it->wanted = wanted;
  std::size_t at = 0;
  if (by_attribute) {
    if (args.positional.empty()) {
      it->error = "selectattr and rejectattr want the name of an attribute";
    } else {
      it->path = std::make_unique<attribute_path>(rt, args.positional[at++]);
    }
  }
  if (at < args.positional.size()) {
    const value& name = args.positional[at++];
    it->test = name.is_string() ? find_test(name.text()) : nullptr;
    if (!it->test) it->error = fmt::format("there is no test named '{}'", name.is_string() ? name.text() : "?");
    it->args.positional.assign(args.positional.begin() + static_cast<std::ptrdiff_t>(at), args.positional.end());
    it->args.named = args.named;
  }
  return rt.generator(std::move(it), v, args);
}

struct unique_iterator : iterator {
  explicit unique_iterator(std::unique_ptr<iterator> i) : items(std::move(i)) {}
  bool next(runtime& rt, value& out) override {
    while (items && items->next(rt, out)) {
      value key = path->of(rt, out);
      if (!case_sensitive && key.is_string()) key = rt.text(uni::lower(key.text()));
      if (rt.ok() && !hashable(key)) rt.error(fmt::format("unhashable type: '{}'", type_name(key)));
      if (!rt.ok() || !rt.step(weight_of(key)) || !rt.spend(96)) return false;
      if (seen.insert(key).second) return true;
    }
    return false;
  }
  std::unique_ptr<iterator> items;
  std::unique_ptr<attribute_path> path;
  bool case_sensitive = false;
  std::set<value, key_less> seen;
};

value unique(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "unique", args, {"case_sensitive", "attribute"});
  if (!a.ok()) return {};
  auto it = std::make_unique<unique_iterator>(iterate(rt, v));
  it->case_sensitive = a.flag(0, false);
  it->path = std::make_unique<attribute_path>(rt, a[1]);
  return rt.ok() ? rt.generator(std::move(it), v, args) : value();
}

struct batch_iterator : iterator {
  explicit batch_iterator(std::unique_ptr<iterator> i) : items(std::move(i)) {}
  bool next(runtime& rt, value& out) override {
    std::vector<value> line;
    value v;
    // Jinja gives a line when the next item comes; with a size of 0 that is an empty line before each but the first.
    if (carried) line.push_back(std::move(*carried));
    carried.reset();
    while (items && items->next(rt, v)) {
      if (static_cast<std::int64_t>(line.size()) == size) {
        carried = std::move(v);
        out = rt.list(std::move(line));
        return rt.ok();
      }
      if (!rt.spend(sizeof(value))) return false;
      line.push_back(std::move(v));
    }
    items.reset();
    if (!rt.ok() || line.empty()) return false;
    if (!fill.is_none() && !fill.is_undefined()) {
      while (static_cast<std::int64_t>(line.size()) < size && rt.step() && rt.spend(sizeof(value)))
        line.push_back(fill);
    }
    out = rt.list(std::move(line));
    return rt.ok();
  }
  std::unique_ptr<iterator> items;
  std::int64_t size = 0;
  value fill;
  std::optional<value> carried;
};

value batch(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "batch", args, {"linecount", "fill_with"}, 1);
  const std::int64_t size = a.integer(0, 0);
  if (a.ok() && size < 1) return rt.error("batch wants a size of at least 1");
  if (!a.ok()) return {};
  auto it = std::make_unique<batch_iterator>(iterate(rt, v));
  it->size = size;
  it->fill = a[1];
  return rt.ok() ? rt.generator(std::move(it), v, args) : value();
}

value slices(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "slice", args, {"slices", "fill_with"}, 1);
  const std::int64_t n = a.integer(0, 0);
  if (!a.ok()) return {};
  const std::vector<value> all = collect(rt, v);
  if (n == 0) return rt.error("division by zero");
  const auto size = static_cast<std::int64_t>(all.size());
  std::vector<value> out;
  std::int64_t start = 0;
  for (std::int64_t i = 0; i < n && rt.step() && rt.spend(sizeof(value)); ++i) {
    const std::int64_t take = size / n + (i < size % n ? 1 : 0);
    std::vector<value> part(all.begin() + start, all.begin() + start + take);
    start += take;
    if (a.has(1) && !a[1].is_none() && i >= size % n) part.push_back(a[1]);
    out.push_back(rt.list(std::move(part)));
  }
  return rt.ok() ? rt.generator(over_items(std::move(out)), v, args) : value();
}

value items(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "items", args, {});
  if (!a.ok()) return {};
  if (v.is_undefined()) return rt.generator(over_items({}), v, args);
  if (!v.is(kind::dict)) return rt.error("items can only get pairs from a mapping");
  return rt.generator(iterate(rt, rt.view(v, view_kind::items)), v, args);
}

value reverse(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "reverse", args, {});
  if (!a.ok()) return {};
  if (v.is_string()) return slice(rt, v, value::none(), value::none(), value::integer(-1));
  if (!is_iterable(v)) return rt.error("reverse wants something to iterate over");
  std::vector<value> all = collect(rt, v);
  std::reverse(all.begin(), all.end());
  if (!rt.ok()) return {};
  // What Python cannot walk backwards becomes a list first.
  if (v.is(kind::generator) || v.is(kind::loop)) return rt.list(std::move(all));
  return rt.generator(over_items(std::move(all)), v, args, "list_reverseiterator");
}

const filter_entry filters[] = {
    {"map", map},
    {"select", [](runtime& rt, const value& v, const call_args& a) { return select(rt, v, a, true, false); }},
    {"reject", [](runtime& rt, const value& v, const call_args& a) { return select(rt, v, a, false, false); }},
    {"selectattr", [](runtime& rt, const value& v, const call_args& a) { return select(rt, v, a, true, true); }},
    {"rejectattr", [](runtime& rt, const value& v, const call_args& a) { return select(rt, v, a, false, true); }},
    {"items", items},
    {"unique", unique},
    {"reverse", reverse},
    {"batch", batch},
    {"slice", slices},
};

}  // namespace

const filter_entry* find_select_filter(std::string_view name) { return find_entry(filters, name); }

}  // namespace troupe::text::jinja
