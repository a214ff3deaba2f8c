#include "src/text/jinja_runtime.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace troupe::text::jinja {

value runtime::error(std::string_view what) {
  if (!failure_) failure_.emplace(errc::invalid_argument, fmt::format("chat template, line {}: {}", line, what));
  return {};
}

value runtime::raise(std::string message) {
  if (!failure_) failure_.emplace(errc::invalid_argument, std::move(message));
  return {};
}

value runtime::exceeded(std::string_view limit_name, std::uint64_t limit) {
  return error(fmt::format("the limit {} ({}) is exceeded: shorten the input or raise the limit", limit_name, limit));
}

bool runtime::spend(std::uint64_t bytes) {
  bytes_ += bytes;
  if (bytes_ <= limits_.memory_bytes && bytes <= limits_.memory_bytes) return ok();
  exceeded("memory_bytes", limits_.memory_bytes);
  return false;
}

bool runtime::may_hold(std::uint64_t bytes) {
  if (bytes > limits_.string_bytes) {
    exceeded("string_bytes", limits_.string_bytes);
    return false;
  }
  return ok();
}

value runtime::text(std::string s, bool markup) {
  if (!may_hold(s.size()) || !spend(s.size() + 64) || !step(s.size() / 256)) return {};
  return value::raw_text(std::move(s), markup);
}

bool runtime::depth_allowed(const container& c) {
  if (c.depth <= limits_.value_depth) return ok();
  exceeded("value_depth", limits_.value_depth);
  return false;
}

value runtime::sequence(kind k, std::vector<value> items) {
  auto o = std::make_shared<list_object>();
  for (const value& v : items) o->hold(v);
  o->items = std::move(items);
  if (!spend(64 + o->items.size() * sizeof(value)) || !step(o->items.size() / 16) || !depth_allowed(*o)) return {};
  return value::of(k, std::move(o));
}

value runtime::dict(std::shared_ptr<dict_object> d) {
  if (!spend(64 + d->items.size() * 4 * sizeof(value)) || !depth_allowed(*d)) return {};
  return value::of(kind::dict, std::move(d));
}

value runtime::range(std::int64_t start, std::int64_t stop, std::int64_t step) {
  if (step == 0) return error("range() arg 3 must not be zero");
  // In unsigned arithmetic the distance of any two 64-bit numbers has a defined value.
  const auto from = static_cast<std::uint64_t>(start), to = static_cast<std::uint64_t>(stop);
  std::uint64_t count = 0;
  if (step > 0 && start < stop) count = (to - from - 1) / static_cast<std::uint64_t>(step) + 1;
  if (step < 0 && start > stop) count = (from - to - 1) / (0 - static_cast<std::uint64_t>(step)) + 1;
  if (count > limits_.range_length) return exceeded("range_length", limits_.range_length);
  auto o = std::make_shared<range_object>();
  o->start = start;
  o->stop = stop;
  o->step = step;
  o->count = static_cast<std::int64_t>(count);
  return spend(64) ? value::of(kind::range, std::move(o)) : value();
}

value runtime::view(const value& dict, view_kind what) {
  auto o = std::make_shared<view_object>();
  o->hold(dict);
  o->dict = dict;
  o->what = what;
  return spend(96) && depth_allowed(*o) ? value::of(kind::view, std::move(o)) : value();
}

value runtime::generator(std::unique_ptr<iterator> it, const value& over, const call_args& args,
                         const char* type_name) {
  auto o = std::make_shared<generator_object>();
  o->hold(over);
  for (const value& v : args.positional) o->hold(v);
  for (const auto& [name, v] : args.named) o->hold(v);
  o->source = std::move(it);
  o->type_name = type_name;
  return spend(256) && depth_allowed(*o) ? value::of(kind::generator, std::move(o)) : value();
}

value runtime::method(const value& self, const method_entry* entry) {
  auto o = std::make_shared<method_object>();
  o->hold(self);
  o->self = self;
  o->entry = entry;
  return spend(96) && depth_allowed(*o) ? value::of(kind::method, std::move(o)) : value();
}

value runtime::space() {
  auto o = std::make_shared<space_object>();
  if (!spend(256)) return {};
  spaces_.push_back(o);
  return value::of(kind::space, std::move(o));
}

value runtime::cycler(std::vector<value> items) {
  if (items.empty()) return error("cycler: at least one item has to be provided");
  auto o = std::make_shared<cycler_object>();
  for (const value& v : items) o->hold(v);
  o->items = std::move(items);
  return spend(64 + o->items.size() * sizeof(value)) && depth_allowed(*o) ? value::of(kind::cycler, std::move(o))
                                                                          : value();
}

value runtime::joiner(value separator) {
  auto o = std::make_shared<joiner_object>();
  o->hold(separator);
  o->separator = std::move(separator);
  return spend(96) && depth_allowed(*o) ? value::of(kind::joiner, std::move(o)) : value();
}

bool runtime::same(const value& a, const value& b) { return step(std::min(weight_of(a), weight_of(b))) && equal(a, b); }

bool runtime::set(dict_object& d, const value& key, const value& v) {
  if (!hashable(key)) {
    error(fmt::format("unhashable type: '{}'", type_name(key)));
    return false;
  }
  if (!step(weight_of(key)) || !spend(4 * sizeof(value))) return false;
  d.set(key, v);
  return true;
}

bound_args::bound_args(runtime& rt, std::string_view callee, const call_args& args,
                       std::initializer_list<std::string_view> names, std::size_t required)
    : rt_(rt), callee_(callee) {
  auto fail = [&](std::string what) {
    rt.error(fmt::format("{}() {}", callee, what));
    ok_ = false;
  };
  if (args.positional.size() > names.size()) {
    fail(fmt::format("takes at most {} arguments ({} given)", names.size(), args.positional.size()));
    return;
  }
  for (std::size_t i = 0; i < args.positional.size(); ++i) slots_[i] = &args.positional[i];
  for (const auto& [name, v] : args.named) {
    std::size_t i = 0;
    while (i < names.size() && (names.begin()[i].empty() || names.begin()[i] != name)) ++i;
    if (i == names.size()) {
      fail(fmt::format("got an unexpected keyword argument '{}'", name));
    } else if (slots_[i]) {
      fail(fmt::format("got multiple values for argument '{}'", name));
    } else {
      slots_[i] = &v;
    }
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (!slots_[i]) fail(fmt::format("needs at least {} arguments", required));
  }
}

const value& bound_args::operator[](std::size_t i) const {
  static const value absent{};
  return slots_[i] ? *slots_[i] : absent;
}

std::int64_t bound_args::integer(std::size_t i, std::int64_t otherwise) {
  if (!has(i) || slots_[i]->is_none()) return otherwise;
  if (slots_[i]->is_integral()) return slots_[i]->as_integer();
  rt_.error(fmt::format("{}() wants an integer, not '{}'", callee_, type_name(*slots_[i])));
  ok_ = false;
  return otherwise;
}

std::string bound_args::string(std::size_t i, std::string_view otherwise) {
  if (!has(i)) return std::string(otherwise);
  if (slots_[i]->is_string()) return slots_[i]->text();
  rt_.error(fmt::format("{}() wants a string, not '{}'", callee_, type_name(*slots_[i])));
  ok_ = false;
  return std::string(otherwise);
}

}  // namespace troupe::text::jinja
