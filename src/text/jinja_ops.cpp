#include "src/text/jinja_ops.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/text/jinja_iter.hpp"
#include "src/text/jinja_repr.hpp"
#include "src/text/jinja_strings.hpp"
#include "src/text/jinja_text_tools.hpp"
#include "src/text/jinja_unicode.hpp"

namespace troupe::text::jinja {

namespace {

const char* sign_of(binary_op op) {
  static constexpr const char* signs[] = {"+", "-", "*", "/", "//", "%", "**"};
  return signs[static_cast<int>(op)];
}

value too_large(runtime& rt) { return rt.error("a whole number does not fit 64 bits"); }

value unsupported(runtime& rt, binary_op op, const value& a, const value& b) {
  if (a.is_undefined()) return rt.use_of_undefined(a);
  if (b.is_undefined()) return rt.use_of_undefined(b);
  if (a.is(kind::big_integer) || b.is(kind::big_integer)) return too_large(rt);
  return rt.error(
      fmt::format("unsupported operand types for {}: '{}' and '{}'", sign_of(op), type_name(a), type_name(b)));
}

value integer_power(runtime& rt, std::int64_t base, std::int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return rt.error("0 cannot be raised to a negative power");
    return value::real(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  std::int64_t out = 1;
  for (bool more = true; more && exponent > 0;) {
    if ((exponent & 1) && __builtin_mul_overflow(out, base, &out)) return too_large(rt);
    exponent >>= 1;
    more = exponent > 0;
    if (more && __builtin_mul_overflow(base, base, &base)) return too_large(rt);
  }
  return value::integer(out);
}

value integers(runtime& rt, binary_op op, std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  switch (op) {
    case binary_op::add:
      return __builtin_add_overflow(a, b, &out) ? too_large(rt) : value::integer(out);
    case binary_op::subtract:
      return __builtin_sub_overflow(a, b, &out) ? too_large(rt) : value::integer(out);
    case binary_op::multiply:
      return __builtin_mul_overflow(a, b, &out) ? too_large(rt) : value::integer(out);
    case binary_op::power:
      return integer_power(rt, a, b);
    default:
      break;
  }
  if (b == 0) return rt.error("division by zero");
  if (op == binary_op::divide) {
    return value::real(static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
  }
  if (b == -1) return op == binary_op::modulo ? value::integer(0) : integers(rt, binary_op::subtract, 0, a);
  std::int64_t quotient = a / b, rest = a % b;
  if (rest != 0 && (rest < 0) != (b < 0)) {
    --quotient;
    rest += b;
  }
  return value::integer(op == binary_op::floor_divide ? quotient : rest);
}

value reals(runtime& rt, binary_op op, double a, double b) {
  switch (op) {
    case binary_op::add:
      return value::real(a + b);
    case binary_op::subtract:
      return value::real(a - b);
    case binary_op::multiply:
      return value::real(a * b);
    case binary_op::power: {
      if (a == 0 && b < 0) return rt.error("0 cannot be raised to a negative power");
      if (a < 0 && std::isfinite(b) && b != std::floor(b)) return rt.error("the power is a complex number");
      const double out = std::pow(a, b);
      if (std::isinf(out) && std::isfinite(a) && std::isfinite(b)) return rt.error("the power is too large");
      return value::real(out);
    }
    default:
      break;
  }
  if (b == 0) return rt.error("division by zero");
  if (op == binary_op::divide) return value::real(a / b);
  // Python's float_divmod: the remainder takes the sign of the divisor.
  double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0) {
    if ((b < 0) != (rest < 0)) {
      rest += b;
      quotient -= 1;
    }
  } else {
    rest = std::copysign(0.0, b);
  }
  if (op == binary_op::modulo) return value::real(rest);
  if (quotient == 0) return value::real(std::copysign(0.0, a / b));
  double floor = std::floor(quotient);
  if (quotient - floor > 0.5) floor += 1;
  return value::real(floor);
}

value join_text(runtime& rt, value a, const value& b) {
  const std::size_t size = a.text().size() + b.text().size();
  if (!rt.may_hold(size)) return {};
  if (a.markup() != b.markup()) {
    // A safe string escapes what it is joined with.
    const std::string left = a.markup() ? a.text() : escape_html(a.text());
    return rt.text(left + (b.markup() ? b.text() : escape_html(b.text())), true);
  }
  if (std::string* own = a.sole_text()) {
    if (!rt.spend(b.text().size()) || !rt.scan(b.text().size())) return {};
    *own += b.text();
    return a;
  }
  std::string out;
  out.reserve(size);
  out += a.text();
  out += b.text();
  return rt.text(std::move(out), a.markup());
}

value join_sequences(runtime& rt, const value& a, const value& b) {
  const auto &x = a.items(), &y = b.items();
  if (!rt.spend((x.size() + y.size()) * sizeof(value))) return {};
  std::vector<value> out;
  out.reserve(x.size() + y.size());
  out.insert(out.end(), x.begin(), x.end());
  out.insert(out.end(), y.begin(), y.end());
  return a.is(kind::list) ? rt.list(std::move(out)) : rt.tuple(std::move(out));
}

value repeat(runtime& rt, const value& what, std::int64_t times) {
  const auto n = static_cast<std::uint64_t>(std::max<std::int64_t>(times, 0));
  const std::uint64_t size = what.is_string() ? what.text().size() : what.items().size();
  const std::uint64_t most = what.is_string() ? rt.bounds().string_bytes : rt.bounds().memory_bytes / sizeof(value);
  if (size != 0 && n > most / size) {
    return what.is_string() ? rt.exceeded("string_bytes", rt.bounds().string_bytes)
                            : rt.exceeded("memory_bytes", rt.bounds().memory_bytes);
  }
  if (what.is_string()) {
    if (!rt.spend(n * size) || !rt.scan(n * size)) return {};
    std::string out;
    out.reserve(n * size);
    for (std::uint64_t i = 0; i < n && size != 0; ++i) out += what.text();
    return rt.text(std::move(out), what.markup());
  }
  if (!rt.spend(n * size * sizeof(value)) || !rt.step(n * size)) return {};
  std::vector<value> out;
  out.reserve(n * size);
  for (std::uint64_t i = 0; i < n && size != 0; ++i) out.insert(out.end(), what.items().begin(), what.items().end());
  return what.is(kind::list) ? rt.list(std::move(out)) : rt.tuple(std::move(out));
}

bool is_plain_number(const value& v) { return v.is_number() && !v.is(kind::big_integer); }

/// -1, 0, 1; 2 when a NaN makes every comparison false; 3 when there is no order.
int order(runtime& rt, const value& a, const value& b) {
  if (is_plain_number(a) && is_plain_number(b)) return compare_numbers(a, b);
  if (a.is_string() && b.is_string()) {
    if (!rt.scan(std::min(a.text().size(), b.text().size()))) return 2;
    const int c = a.text().compare(b.text());
    return c < 0 ? -1 : c > 0 ? 1 : 0;
  }
  if (a.is_sequence() && a.type() == b.type()) {
    runtime::level level(rt);
    const auto &x = a.items(), &y = b.items();
    for (std::size_t i = 0; rt.ok() && i < x.size() && i < y.size(); ++i) {
      if (!same_object(x[i], y[i]) && !rt.same(x[i], y[i])) return order(rt, x[i], y[i]);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
  }
  return 3;
}

}  // namespace

value arithmetic(runtime& rt, binary_op op, value a, const value& b) {
  if (!rt.ok()) return {};
  if (a.is_string() && op == binary_op::modulo) return format_percent(rt, a, b);
  if (is_plain_number(a) && is_plain_number(b)) {
    if (!a.is(kind::real) && !b.is(kind::real)) return integers(rt, op, a.as_integer(), b.as_integer());
    return reals(rt, op, a.to_real(), b.to_real());
  }
  if (op == binary_op::add) {
    if (a.is_string() && b.is_string()) return join_text(rt, std::move(a), b);
    if (a.is_sequence() && a.type() == b.type()) return join_sequences(rt, a, b);
  }
  if (op == binary_op::multiply) {
    if ((a.is_string() || a.is_sequence()) && b.is_integral()) return repeat(rt, a, b.as_integer());
    if ((b.is_string() || b.is_sequence()) && a.is_integral()) return repeat(rt, b, a.as_integer());
  }
  return unsupported(rt, op, a, b);
}

value negated(runtime& rt, const value& v) {
  if (v.is(kind::real)) return value::real(-v.as_real());
  if (v.is_integral()) return integers(rt, binary_op::subtract, 0, v.as_integer());
  if (v.is_undefined()) return rt.use_of_undefined(v);
  return rt.error(fmt::format("bad operand type for unary -: '{}'", type_name(v)));
}

value unchanged(runtime& rt, const value& v) {
  if (v.is_integral()) return value::integer(v.as_integer());
  if (v.is_number()) return v;
  if (v.is_undefined()) return rt.use_of_undefined(v);
  return rt.error(fmt::format("bad operand type for unary +: '{}'", type_name(v)));
}

bool compare(runtime& rt, compare_op op, const value& a, const value& b) {
  if (!rt.ok()) return false;
  switch (op) {
    case compare_op::eq:
      return rt.same(a, b);
    case compare_op::ne:
      return !rt.same(a, b);
    case compare_op::in:
      return contains(rt, b, a);
    case compare_op::not_in:
      return !contains(rt, b, a);
    default:
      break;
  }
  const int c = order(rt, a, b);
  if (c == 3) {
    static constexpr const char* signs[] = {"<", "<=", ">", ">="};
    if (a.is_undefined()) {
      rt.use_of_undefined(a);
    } else if (b.is_undefined()) {
      rt.use_of_undefined(b);
    } else {
      rt.error(fmt::format("'{}' is not supported between '{}' and '{}'",
                           signs[static_cast<int>(op) - static_cast<int>(compare_op::lt)], type_name(a), type_name(b)));
    }
    return false;
  }
  if (c == 2) return false;
  switch (op) {
    case compare_op::lt:
      return c < 0;
    case compare_op::le:
      return c <= 0;
    case compare_op::gt:
      return c > 0;
    default:
      return c >= 0;
  }
}

bool less(runtime& rt, const value& a, const value& b) { return rt.step() && compare(rt, compare_op::lt, a, b); }

bool contains(runtime& rt, const value& container, const value& v) {
  switch (container.type()) {
    case kind::string:
      if (!v.is_string()) {
        rt.error(fmt::format("'in <string>' requires a string as left operand, not '{}'", type_name(v)));
        return false;
      }
      return rt.scan(container.text().size() * 4) && find_first(container.text(), v.text()) != std::string::npos;
    case kind::dict:
    case kind::view: {
      const bool is_view = container.is(kind::view);
      if (is_view && container.as<view_object>().what != view_kind::keys) break;
      const value& dict = is_view ? container.as<view_object>().dict : container;
      if (!hashable(v)) {
        rt.error(fmt::format("unhashable type: '{}'", type_name(v)));
        return false;
      }
      return rt.step(weight_of(v)) && dict.as<dict_object>().find(v) != nullptr;
    }
    case kind::range: {
      const auto& r = container.as<range_object>();
      if (!v.is(kind::integer) && !v.is(kind::boolean)) break;
      if (r.count == 0) return false;
      const std::int64_t x = v.as_integer(), a = r.at(0), b = r.at(r.count - 1);
      if (x < std::min(a, b) || x > std::max(a, b)) return false;
      if (r.count == 1) return true;
      // Unsigned: the distance may not fit, and counts from the lower end for either direction.
      const auto distance = static_cast<std::uint64_t>(x) - static_cast<std::uint64_t>(a);
      const auto by = static_cast<std::uint64_t>(r.step);
      return r.step > 0 ? distance % by == 0 : (0 - distance) % (0 - by) == 0;
    }
    default:
      break;
  }
  if (!is_iterable(container)) {
    rt.error(fmt::format("argument of type '{}' is not iterable", type_name(container)));
    return false;
  }
  if (container.is_sequence()) {
    for (const value& x : container.items()) {
      if (!rt.ok()) return false;
      if (same_object(x, v) || rt.same(x, v)) return true;
    }
    return false;
  }
  auto it = iterate(rt, container);
  value x;
  while (it && it->next(rt, x)) {
    if (same_object(x, v) || rt.same(x, v)) return true;
  }
  return false;
}

}  // namespace troupe::text::jinja
