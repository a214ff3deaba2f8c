#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_ops.hpp"
#include "src/text/jinja_strings.hpp"

/// Filters that give numbers.
namespace troupe::text::jinja {

namespace {

value whole(runtime& rt, double d) {
  if (std::isinf(d) || std::fabs(d) >= 9223372036854775808.0) return rt.error("a whole number does not fit 64 bits");
  return value::integer(static_cast<std::int64_t>(d));
}

value as_integer(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "int", args, {"default", "base"});
  const std::int64_t base = a.integer(1, 10);
  if (!a.ok()) return {};
  const value otherwise = a.has(0) ? a[0] : value::integer(0);
  if (v.is_undefined()) return rt.use_of_undefined(v);
  if (v.is_integral()) return value::integer(v.as_integer());
  if (v.is(kind::big_integer)) return v;
  if (v.is(kind::real)) return std::isnan(v.as_real()) ? otherwise : whole(rt, v.as_real());
  if (!v.is_string()) return otherwise;
  if (const auto i = to_integer(v.text(), static_cast<int>(std::clamp<std::int64_t>(base, -1, 37)))) {
    return value::integer(*i);
  }
  const auto d = to_real(v.text());
  if (!d || !std::isfinite(*d)) return otherwise;
  return whole(rt, *d);
}

value as_real(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "float", args, {"default"});
  if (!a.ok()) return {};
  const value otherwise = a.has(0) ? a[0] : value::real(0);
  if (v.is_undefined()) return rt.use_of_undefined(v);
  if (v.is_integral() || v.is(kind::real)) return value::real(v.to_real());
  if (v.is(kind::big_integer)) return value::real(parse_real(v.text()));
  if (!v.is_string()) return otherwise;
  const auto d = to_real(v.text());
  return d ? value::real(*d) : otherwise;
}

value absolute(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "abs", args, {});
  if (!a.ok()) return {};
  if (v.is(kind::real)) return value::real(std::fabs(v.as_real()));
  if (v.is_integral()) return v.as_integer() < 0 ? negated(rt, v) : value::integer(v.as_integer());
  return rt.error(fmt::format("abs wants a number, not '{}'", type_name(v)));
}

/// Half to even on the exact binary value, as Python's round: printf rounds so too.
double rounded(double d, std::int64_t precision) {
  if (!std::isfinite(d) || precision > 300) return d;
  if (precision >= 0) {
    const double out = parse_real(fmt::format("{:.{}f}", d, precision));
    return out;
  }
  if (precision < -308) return std::copysign(0.0, d);
  const double unit = std::pow(10.0, static_cast<double>(-precision));
  return std::nearbyint(d / unit) * unit;
}

value round_integer(runtime& rt, std::int64_t i, std::int64_t precision) {
  if (precision >= 0) return value::integer(i);
  if (precision < -18) return value::integer(0);
  std::int64_t unit = 1;
  for (std::int64_t n = precision; n < 0; ++n) unit *= 10;
  std::int64_t rest = i % unit, out = i - rest;
  if (rest < 0) {
    rest += unit;
    if (__builtin_sub_overflow(out, unit, &out)) return rt.error("a whole number does not fit 64 bits");
  }
  const bool up = rest * 2 > unit || (rest * 2 == unit && (out / unit) % 2 != 0);
  if (up && __builtin_add_overflow(out, unit, &out)) return rt.error("a whole number does not fit 64 bits");
  return value::integer(out);
}

value round(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "round", args, {"precision", "method"});
  const std::int64_t precision = a.integer(0, 0);
  const std::string method = a.string(1, "common");
  if (!a.ok() || !rt.step(static_cast<std::uint64_t>(std::clamp<std::int64_t>(precision, 0, 300)))) return {};
  if (method != "common" && method != "ceil" && method != "floor") {
    return rt.error("the method of round must be common, ceil or floor");
  }
  if (!v.is_integral() && !v.is(kind::real))
    return rt.error(fmt::format("round wants a number, not '{}'", type_name(v)));
  if (method == "common") {
    if (v.is_integral()) return round_integer(rt, v.as_integer(), precision);
    return value::real(rounded(v.as_real(), precision));
  }
  if (!std::isfinite(v.to_real())) return rt.error("round cannot make a whole number of it");
  const double unit = std::pow(10.0, static_cast<double>(precision));
  const double scaled = v.to_real() * unit;
  return value::real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

const filter_entry filters[] = {
    {"int", as_integer},
    {"float", as_real},
    {"abs", absolute},
    {"round", round},
};

}  // namespace

const filter_entry* find_number_filter(std::string_view name) { return find_entry(filters, name); }

}  // namespace troupe::text::jinja
