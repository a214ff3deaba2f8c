#include "src/text/jinja_loop.hpp"

#include <algorithm>

#include "src/text/jinja_iter.hpp"

namespace troupe::text::jinja {

bool loop_object::advance(runtime& rt, value& out) {
  if (after_) {
    out = std::move(*after_);
    after_.reset();
  } else if (!items || !items->next(rt, out)) {
    return false;
  }
  ++index0;
  before = std::move(current);
  current = out;
  return true;
}

std::int64_t loop_object::length(runtime& rt) {
  if (length_) return *length_;
  if (has_length(source)) {
    length_ = jinja::length(rt, source);
    return *length_;
  }
  // A generator does not know how many it will give: take them all.
  std::vector<value> rest;
  value item;
  while (items && items->next(rt, item)) {
    if (!rt.spend(sizeof(value))) return 0;
    rest.push_back(std::move(item));
  }
  length_ = static_cast<std::int64_t>(rest.size()) + index0 + 1 + (after_ ? 1 : 0);
  items = over_items(std::move(rest));
  return *length_;
}

bool loop_object::peek(runtime& rt, value& out) {
  if (!after_) {
    value next;
    if (!items || !items->next(rt, next)) return false;
    after_ = std::move(next);
  }
  out = *after_;
  return true;
}

bool loop_object::changed(runtime& rt, std::vector<value> now) {
  bool same = last_ && last_->size() == now.size();
  for (std::size_t i = 0; same && i < now.size(); ++i) same = rt.same((*last_)[i], now[i]);
  if (!same) last_ = std::move(now);
  return !same;
}

void loop_object::finish() {
  source = value();
  items.reset();
  recurse = nullptr;
  current.reset();
  before.reset();
  after_.reset();
  last_.reset();
}

}  // namespace troupe::text::jinja
