#include "src/text/jinja_iter.hpp"

#include <fmt/format.h>

#include "src/text/jinja_loop.hpp"
#include "src/text/jinja_unicode.hpp"

namespace troupe::text::jinja {

namespace {

struct items_iterator : iterator {
  explicit items_iterator(value v) : sequence(std::move(v)) {}
  bool next(runtime& rt, value& out) override {
    if (at >= sequence.items().size() || !rt.step()) return false;
    out = sequence.items()[at++];
    return true;
  }
  value sequence;
  std::size_t at = 0;
};

struct own_iterator : iterator {
  explicit own_iterator(std::vector<value> v) : items(std::move(v)) {}
  bool next(runtime& rt, value& out) override {
    if (at >= items.size() || !rt.step()) return false;
    out = std::move(items[at++]);
    return true;
  }
  std::vector<value> items;
  std::size_t at = 0;
};

struct text_iterator : iterator {
  explicit text_iterator(value v) : text(std::move(v)) {}
  bool next(runtime& rt, value& out) override {
    const std::string& s = text.text();
    if (at >= s.size() || !rt.step()) return false;
    const std::size_t start = at;
    uni::decode(s, at);
    out = rt.text(s.substr(start, at - start));
    return rt.ok();
  }
  value text;
  std::size_t at = 0;
};

struct range_iterator : iterator {
  explicit range_iterator(value v) : range(std::move(v)) {}
  bool next(runtime& rt, value& out) override {
    const auto& r = range.as<range_object>();
    if (at >= r.count || !rt.step()) return false;
    out = value::integer(r.at(at++));
    return true;
  }
  value range;
  std::int64_t at = 0;
};

struct dict_iterator : iterator {
  dict_iterator(value v, view_kind w) : dict(std::move(v)), what(w) {}
  bool next(runtime& rt, value& out) override {
    const pairs& items = dict.as<dict_object>().items;
    if (at >= items.size() || !rt.step()) return false;
    const auto& [k, v] = items[at++];
    out = what == view_kind::keys ? k : what == view_kind::values ? v : rt.tuple({k, v});
    return rt.ok();
  }
  value dict;
  view_kind what;
  std::size_t at = 0;
};

struct generator_iterator : iterator {
  explicit generator_iterator(value v) : generator(std::move(v)) {}
  bool next(runtime& rt, value& out) override {
    if (!rt.step()) return false;
    // A generator over a generator is one level of recursion each; their depth is limited when they are made.
    return generator.mut<generator_object>().source->next(rt, out);
  }
  value generator;
};

struct loop_iterator : iterator {
  explicit loop_iterator(value v) : loop(std::move(v)) {}
  bool next(runtime& rt, value& out) override {
    value item;
    if (!rt.step() || !loop.mut<loop_object>().advance(rt, item)) return false;
    out = rt.tuple({item, loop});
    return rt.ok();
  }
  value loop;
};

struct empty_iterator : iterator {
  bool next(runtime&, value&) override { return false; }
};

}  // namespace

bool is_iterable(const value& v) {
  switch (v.type()) {
    case kind::undefined:
    case kind::string:
    case kind::list:
    case kind::tuple:
    case kind::dict:
    case kind::range:
    case kind::view:
    case kind::generator:
    case kind::loop:
      return true;
    default:
      return false;
  }
}

std::unique_ptr<iterator> iterate(runtime& rt, const value& v) {
  switch (v.type()) {
    case kind::undefined:
      return std::make_unique<empty_iterator>();
    case kind::string:
      return std::make_unique<text_iterator>(v);
    case kind::list:
    case kind::tuple:
      return std::make_unique<items_iterator>(v);
    case kind::dict:
      return std::make_unique<dict_iterator>(v, view_kind::keys);
    case kind::range:
      return std::make_unique<range_iterator>(v);
    case kind::view:
      return std::make_unique<dict_iterator>(v.as<view_object>().dict, v.as<view_object>().what);
    case kind::generator:
      return std::make_unique<generator_iterator>(v);
    case kind::loop:
      return std::make_unique<loop_iterator>(v);
    default:
      rt.error(fmt::format("'{}' object is not iterable", type_name(v)));
      return nullptr;
  }
}

std::vector<value> collect(runtime& rt, const value& v) {
  if (v.is_sequence()) {
    if (!rt.step(v.items().size() / 16) || !rt.spend(v.items().size() * sizeof(value))) return {};
    return v.items();
  }
  std::vector<value> out;
  auto it = iterate(rt, v);
  if (!it) return out;
  value item;
  while (it->next(rt, item)) {
    if (!rt.spend(sizeof(value))) return {};
    out.push_back(std::move(item));
  }
  return out;
}

bool has_length(const value& v) {
  switch (v.type()) {
    case kind::undefined:
    case kind::string:
    case kind::list:
    case kind::tuple:
    case kind::dict:
    case kind::range:
    case kind::view:
    case kind::loop:
      return true;
    default:
      return false;
  }
}

std::int64_t length(runtime& rt, const value& v) {
  auto size = [](std::size_t n) { return static_cast<std::int64_t>(n); };
  switch (v.type()) {
    case kind::undefined:
      return 0;
    case kind::string:
      return rt.scan(v.text().size()) ? size(uni::length(v.text())) : -1;
    case kind::list:
    case kind::tuple:
      return size(v.items().size());
    case kind::dict:
      return size(v.as<dict_object>().items.size());
    case kind::range:
      return v.as<range_object>().count;
    case kind::view:
      return size(v.as<view_object>().dict.as<dict_object>().items.size());
    case kind::loop:
      return v.mut<loop_object>().length(rt);
    default:
      rt.error(fmt::format("object of type '{}' has no len()", type_name(v)));
      return -1;
  }
}

bool item_at(runtime& rt, const value& v, std::int64_t i, value& out) {
  if (v.is_string() && !rt.scan(v.text().size() * 4)) return false;
  const std::int64_t n = length(rt, v);
  if (!rt.ok()) return false;
  if (i < 0) i += n;
  if (i < 0 || i >= n) return false;
  if (v.is_sequence()) {
    out = v.items()[static_cast<std::size_t>(i)];
  } else if (v.is(kind::range)) {
    out = value::integer(v.as<range_object>().at(i));
  } else {
    const std::string& s = v.text();
    const std::size_t from = uni::byte_offset(s, static_cast<std::size_t>(i));
    std::size_t to = from;
    uni::decode(s, to);
    out = rt.text(s.substr(from, to - from), v.markup());
  }
  return rt.ok();
}

std::unique_ptr<iterator> over_items(std::vector<value> items) {
  return std::make_unique<own_iterator>(std::move(items));
}

}  // namespace troupe::text::jinja
