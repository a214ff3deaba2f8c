#include "src/text/jinja_value.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace troupe::text::jinja {

namespace {

constexpr std::size_t small_dict = 12;

template <class T>
T saturating_add(T a, T b) {
  return a > std::numeric_limits<T>::max() - b ? std::numeric_limits<T>::max() : a + b;
}

/// Groups of keys that can never be equal to a key of another group.
int key_rank(const value& v) {
  switch (v.type()) {
    case kind::none:
      return 0;
    case kind::boolean:
    case kind::integer:
    case kind::real:
      return 1;
    case kind::big_integer:
      return 2;
    case kind::string:
      return 3;
    case kind::tuple:
      return 4;
    case kind::undefined:
      return 5;
    default:
      return 6;
  }
}

}  // namespace

value value::boolean(bool b) {
  value v(kind::boolean);
  v.integer_ = b ? 1 : 0;
  return v;
}

value value::integer(std::int64_t i) {
  value v(kind::integer);
  v.integer_ = i;
  return v;
}

value value::real(double d) {
  value v(kind::real);
  v.real_ = d;
  return v;
}

value value::raw_text(std::string s, bool markup) {
  value v(kind::string);
  auto o = std::make_shared<text_object>();
  o->text = std::move(s);
  o->markup = markup;
  v.object_ = std::move(o);
  return v;
}

value value::big_integer(std::string digits) {
  value v = raw_text(std::move(digits));
  v.kind_ = kind::big_integer;
  return v;
}

value value::undefined(std::string message) {
  value v = raw_text(std::move(message));
  v.kind_ = kind::undefined;
  return v;
}

value value::of(kind k, std::shared_ptr<object> o) {
  value v(k);
  v.object_ = std::move(o);
  return v;
}

const std::string& value::text() const { return as<text_object>().text; }
bool value::markup() const { return kind_ == kind::string && as<text_object>().markup; }
const std::vector<value>& value::items() const { return as<list_object>().items; }

const std::string& value::undefined_message() const {
  static const std::string unnamed = "the value is undefined";
  return object_ ? as<text_object>().text : unnamed;
}

std::string* value::sole_text() {
  return kind_ == kind::string && object_.use_count() == 1 ? &mut<text_object>().text : nullptr;
}

void container::hold(const value& v) {
  depth = std::max(depth, saturating_add<std::uint32_t>(depth_of(v), 1));
  weight = saturating_add(weight, weight_of(v));
  hashable = hashable && jinja::hashable(v);
}

bool key_less::operator()(const value& a, const value& b) const {
  const int ra = key_rank(a), rb = key_rank(b);
  if (ra != rb) return ra < rb;
  switch (ra) {
    case 1: {
      const int c = compare_numbers(a, b);
      if (c != 2) return c < 0;
      // NaN stands before all numbers, so that the order stays total.
      const bool a_nan = a.is(kind::real) && std::isnan(a.as_real());
      const bool b_nan = b.is(kind::real) && std::isnan(b.as_real());
      return a_nan && !b_nan;
    }
    case 2:
    case 3:
      return a.text() < b.text();
    case 4:
      return std::lexicographical_compare(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(),
                                          key_less{});
    case 6:
      return std::less<const object*>{}(a.identity(), b.identity());
    default:
      return false;
  }
}

bool key_less::operator()(const value& a, std::string_view b) const {
  return a.is_string() ? a.text() < b : key_rank(a) < 3;
}

bool key_less::operator()(std::string_view a, const value& b) const {
  return b.is_string() ? a < b.text() : 3 < key_rank(b);
}

const value* dict_object::find(const value& key) const {
  if (key.is_string()) return find(std::string_view(key.text()));
  if (items.size() > small_dict) {
    auto at = index_.find(key);
    return at == index_.end() ? nullptr : &items[at->second].second;
  }
  key_less less;
  for (const auto& [k, v] : items) {
    if (!less(k, key) && !less(key, k)) return &v;
  }
  return nullptr;
}

const value* dict_object::find(std::string_view key) const {
  if (items.size() > small_dict) {
    auto at = index_.find(key);
    return at == index_.end() ? nullptr : &items[at->second].second;
  }
  for (const auto& [k, v] : items) {
    if (k.is_string() && k.text() == key) return &v;
  }
  return nullptr;
}

void dict_object::set(value key, value v) {
  hold(key);
  hold(v);
  if (const value* old = find(key)) {
    *const_cast<value*>(old) = std::move(v);
    return;
  }
  items.emplace_back(std::move(key), std::move(v));
  if (items.size() == small_dict + 1) {
    for (std::size_t i = 0; i < items.size(); ++i) index_.emplace(items[i].first, i);
  } else if (items.size() > small_dict) {
    index_.emplace(items.back().first, items.size() - 1);
  }
}

std::uint32_t depth_of(const value& v) {
  switch (v.type()) {
    case kind::list:
    case kind::tuple:
    case kind::dict:
    case kind::view:
    case kind::generator:
    case kind::method:
    case kind::cycler:
    case kind::joiner:
      return v.as<container>().depth;
    default:
      return 0;
  }
}

std::uint64_t weight_of(const value& v) {
  switch (v.type()) {
    case kind::list:
    case kind::tuple:
    case kind::dict:
    case kind::view:
      return v.as<container>().weight;
    case kind::string:
      return 1 + v.text().size() / 256;
    default:
      return 1;
  }
}

bool truth(const value& v) {
  switch (v.type()) {
    case kind::undefined:
    case kind::none:
      return false;
    case kind::boolean:
    case kind::integer:
      return v.as_integer() != 0;
    case kind::real:
      return v.as_real() != 0.0;
    case kind::string:
      return !v.text().empty();
    case kind::list:
    case kind::tuple:
      return !v.items().empty();
    case kind::dict:
      return !v.as<dict_object>().items.empty();
    case kind::range:
      return v.as<range_object>().count > 0;
    case kind::view:
      return truth(v.as<view_object>().dict);
    default:
      return true;
  }
}

int compare_numbers(const value& a, const value& b) {
  auto order = [](auto x, auto y) { return x < y ? -1 : x > y ? 1 : 0; };
  const bool ra = a.is(kind::real), rb = b.is(kind::real);
  if (!ra && !rb) return order(a.as_integer(), b.as_integer());
  if (ra && rb) return std::isnan(a.as_real()) || std::isnan(b.as_real()) ? 2 : order(a.as_real(), b.as_real());
  if (rb) {
    const int c = compare_numbers(b, a);
    return c == 2 ? 2 : -c;
  }
  // A double and an integer are compared exactly, as Python does: the integer is not rounded.
  const double d = a.as_real();
  const std::int64_t i = b.as_integer();
  if (std::isnan(d)) return 2;
  if (d >= 9223372036854775808.0) return 1;
  if (d < -9223372036854775808.0) return -1;
  const auto whole = static_cast<std::int64_t>(d);
  if (whole != i) return order(whole, i);
  return order(d - std::trunc(d), 0.0);
}

bool equal(const value& a, const value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is(kind::big_integer) || b.is(kind::big_integer)) return a.type() == b.type() && a.text() == b.text();
    return compare_numbers(a, b) == 0;
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case kind::undefined:
    case kind::none:
      return true;
    case kind::string:
      return a.text() == b.text();
    case kind::list:
    case kind::tuple: {
      if (a.identity() == b.identity()) return true;
      const auto &x = a.items(), &y = b.items();
      return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin(), [](const value& p, const value& q) {
               return same_object(p, q) || equal(p, q);
             });
    }
    case kind::dict: {
      if (a.identity() == b.identity()) return true;
      const auto &x = a.as<dict_object>(), &y = b.as<dict_object>();
      if (x.items.size() != y.items.size()) return false;
      for (const auto& [k, v] : x.items) {
        const value* other = y.find(k);
        if (!other || !(same_object(v, *other) || equal(v, *other))) return false;
      }
      return true;
    }
    case kind::range: {
      const auto &x = a.as<range_object>(), &y = b.as<range_object>();
      return x.count == y.count && (x.count == 0 || (x.start == y.start && (x.count == 1 || x.step == y.step)));
    }
    case kind::view: {
      const auto &x = a.as<view_object>(), &y = b.as<view_object>();
      if (x.what != y.what || x.what == view_kind::values) return a.identity() == b.identity();
      const auto &p = x.dict.as<dict_object>(), &q = y.dict.as<dict_object>();
      if (x.what == view_kind::items) return equal(x.dict, y.dict);
      return p.items.size() == q.items.size() &&
             std::all_of(p.items.begin(), p.items.end(), [&](const auto& kv) { return q.find(kv.first); });
    }
    case kind::function:
      return a.as<function_object>().entry == b.as<function_object>().entry;
    case kind::method: {
      const auto &x = a.as<method_object>(), &y = b.as<method_object>();
      return x.entry == y.entry && same_object(x.self, y.self);
    }
    default:
      return a.identity() == b.identity();
  }
}

bool same_object(const value& a, const value& b) {
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case kind::none:
      return true;
    case kind::boolean:
    case kind::integer:
      return a.as_integer() == b.as_integer();
    case kind::real:
      return a.as_real() == b.as_real();
    case kind::string:
      return a.identity() == b.identity() || (a.text().size() < 2 && a.text() == b.text());
    default:
      return a.identity() == b.identity();
  }
}

bool hashable(const value& v) {
  switch (v.type()) {
    case kind::list:
    case kind::dict:
      return false;
    case kind::view:
      return v.as<view_object>().what == view_kind::values;
    case kind::tuple:
      return v.as<container>().hashable;
    default:
      return true;
  }
}

const char* type_name(const value& v) {
  switch (v.type()) {
    case kind::undefined:
      return "Undefined";
    case kind::none:
      return "NoneType";
    case kind::boolean:
      return "bool";
    case kind::integer:
    case kind::big_integer:
      return "int";
    case kind::real:
      return "float";
    case kind::string:
      return v.markup() ? "Markup" : "str";
    case kind::list:
      return "list";
    case kind::tuple:
      return "tuple";
    case kind::dict:
      return "dict";
    case kind::range:
      return "range";
    case kind::view: {
      const auto what = v.as<view_object>().what;
      return what == view_kind::keys ? "dict_keys" : what == view_kind::values ? "dict_values" : "dict_items";
    }
    case kind::generator:
      return v.as<generator_object>().type_name;
    case kind::space:
      return "Namespace";
    case kind::macro:
      return "Macro";
    case kind::function:
      return "function";
    case kind::method:
      return "builtin_function_or_method";
    case kind::loop:
      return "LoopContext";
    case kind::cycler:
      return "Cycler";
    case kind::joiner:
      return "Joiner";
  }
  return "object";
}

std::string describe_object(const value& v) {
  if (v.is_none()) return "None";
  return std::string(type_name(v)) + " object";
}

}  // namespace troupe::text::jinja
