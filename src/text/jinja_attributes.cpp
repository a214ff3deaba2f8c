#include <fmt/format.h>

#include <algorithm>

#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_iter.hpp"
#include "src/text/jinja_loop.hpp"
#include "src/text/jinja_ops.hpp"
#include "src/text/jinja_repr.hpp"
#include "src/text/jinja_unicode.hpp"

namespace troupe::text::jinja {

namespace {

bool loop_attribute(runtime& rt, loop_object& loop, std::string_view name, value& out) {
  auto number = [&](std::int64_t i) {
    out = value::integer(i);
    return true;
  };
  if (name == "index") return number(loop.index0 + 1);
  if (name == "index0") return number(loop.index0);
  if (name == "revindex") return number(loop.length(rt) - loop.index0);
  if (name == "revindex0") return number(loop.length(rt) - loop.index0 - 1);
  if (name == "length") return number(loop.length(rt));
  if (name == "depth") return number(loop.depth0 + 1);
  if (name == "depth0") return number(loop.depth0);
  value next;
  if (name == "first") {
    out = value::boolean(loop.index0 == 0);
  } else if (name == "last") {
    out = value::boolean(!loop.peek(rt, next));
  } else if (name == "previtem") {
    out = loop.index0 > 0 && loop.before ? *loop.before : value::undefined("there is no previous item");
  } else if (name == "nextitem") {
    out = loop.peek(rt, next) ? next : value::undefined("there is no next item");
  } else {
    return false;
  }
  return true;
}

bool macro_attribute(runtime& rt, const macro_stmt& m, std::string_view name, value& out) {
  if (name == "name") {
    out = m.name.empty() ? value::none() : rt.text(m.name);
  } else if (name == "arguments") {
    std::vector<value> names;
    for (const parameter& p : m.parameters) names.push_back(rt.text(p.name));
    out = rt.tuple(std::move(names));
  } else if (name == "catch_kwargs") {
    out = value::boolean(m.uses_kwargs);
  } else if (name == "catch_varargs") {
    out = value::boolean(m.uses_varargs);
  } else if (name == "caller") {
    out = value::boolean(m.uses_caller);
  } else {
    return false;
  }
  return true;
}

value missing(runtime& rt, const value& of, const value& key) {
  std::string message = describe_object(of);
  if (key.is_string()) {
    std::string quoted;
    append_text_repr(quoted, message);
    message = quoted + " has no attribute ";
    append_text_repr(message, key.text());
  } else {
    message += " has no element " + to_repr(rt, key);
  }
  return value::undefined(std::move(message));
}

value missing(const value& of, std::string_view name) {
  std::string message = fmt::format("'{}' has no attribute ", describe_object(of));
  append_text_repr(message, name);
  return value::undefined(std::move(message));
}

/// The indices a slice names, by Python's rules.
struct slice_range {
  std::int64_t start = 0, step = 1, count = 0;
};

bool slice_index(runtime& rt, const value& v, std::int64_t otherwise, std::int64_t& out) {
  if (v.is_none()) {
    out = otherwise;
    return true;
  }
  if (v.is_integral()) {
    out = v.as_integer();
    return true;
  }
  if (v.is_undefined()) {
    rt.use_of_undefined(v);
  } else {
    rt.error("slice indices must be whole numbers or none");
  }
  return false;
}

bool slice_indices(runtime& rt, std::int64_t n, const value& start, const value& stop, const value& step,
                   slice_range& out) {
  if (!slice_index(rt, step, 1, out.step)) return false;
  if (out.step == 0) {
    rt.error("the step of a slice must not be zero");
    return false;
  }
  // Longer steps than the sequence make no difference, and cannot overflow below.
  const bool back = out.step < 0;
  out.step = std::clamp<std::int64_t>(out.step, -n - 1, n + 1);
  const std::int64_t lowest = back ? -1 : 0, highest = back ? n - 1 : n;
  std::int64_t from = 0, to = 0;
  if (!slice_index(rt, start, back ? highest : lowest, from)) return false;
  if (!slice_index(rt, stop, back ? -n - 1 : highest, to)) return false;
  auto place = [&](std::int64_t i) { return std::clamp(i < 0 ? i + n : i, lowest, highest); };
  if (!start.is_none()) from = place(from);
  to = stop.is_none() ? (back ? -1 : n) : place(to);
  out.start = from;
  if (!back && from < to) out.count = (to - from - 1) / out.step + 1;
  if (back && from > to) out.count = (from - to - 1) / -out.step + 1;
  return true;
}

value sliced_text(runtime& rt, const value& text, const slice_range& r) {
  const auto start = static_cast<std::size_t>(std::max<std::int64_t>(r.start, 0));
  if (r.count == 0) return rt.text("", text.markup());
  if (r.step == 1) return code_points(rt, text, start, start + static_cast<std::size_t>(r.count));
  const std::string& s = text.text();
  if (!rt.spend(s.size() * 4) || !rt.scan(s.size() * 16)) return {};
  std::u32string all;
  for (std::size_t at = 0; at < s.size();) all += uni::decode(s, at);
  std::string out;
  for (std::int64_t i = 0; i < r.count; ++i) uni::append(out, all[static_cast<std::size_t>(r.start + i * r.step)]);
  return rt.text(std::move(out), text.markup());
}

}  // namespace

value code_points(runtime& rt, const value& text, std::size_t from, std::size_t to) {
  const std::string_view s = text.text();
  if (!rt.scan(s.size())) return {};
  const std::size_t first = uni::byte_offset(s, from);
  const std::size_t size = to > from ? uni::byte_offset(s.substr(first), to - from) : 0;
  return rt.text(s.substr(first, size), text);
}

bool own_attribute(runtime& rt, const value& of, std::string_view name, value& out) {
  switch (of.type()) {
    case kind::space: {
      const value* found = of.as<space_object>().attributes.find(name);
      if (found) out = *found;
      return found != nullptr;
    }
    case kind::loop:
      if (loop_attribute(rt, of.mut<loop_object>(), name, out)) return true;
      break;
    case kind::macro:
      return macro_attribute(rt, *of.as<macro_object>().node, name, out);
    case kind::tuple:
      if (of.as<list_object>().group && (name == "grouper" || name == "list")) {
        out = of.items()[name == "list" ? 1 : 0];
        return true;
      }
      break;
    case kind::cycler:
      if (name == "current") {
        out = of.as<cycler_object>().items[of.as<cycler_object>().at];
        return true;
      }
      break;
    case kind::range:
      if (name == "start" || name == "stop" || name == "step") {
        const auto& r = of.as<range_object>();
        out = value::integer(name == "start" ? r.start : name == "stop" ? r.stop : r.step);
        return true;
      }
      break;
    case kind::boolean:
    case kind::integer:
      if (name == "real" || name == "numerator") {
        out = value::integer(of.as_integer());
        return true;
      }
      if (name == "imag" || name == "denominator") {
        out = value::integer(name == "imag" ? 0 : 1);
        return true;
      }
      break;
    default:
      break;
  }
  if (is_refused_method(of, name)) {
    out = value::undefined(fmt::format(
        "access to attribute '{}' of '{}' object is unsafe: templates cannot change values", name, type_name(of)));
    return true;
  }
  if (const method_entry* m = find_method(of, name)) {
    out = rt.method(of, m);
    return true;
  }
  return false;
}

value attribute(runtime& rt, const value& of, std::string_view name) {
  if (!rt.ok()) return {};
  if (of.is_undefined()) return rt.use_of_undefined(of);
  value out;
  if (own_attribute(rt, of, name, out)) return out;
  if (of.is(kind::dict)) {
    if (const value* found = of.as<dict_object>().find(name)) return *found;
  }
  return missing(of, name);
}

value item(runtime& rt, const value& of, const value& key) {
  if (!rt.ok()) return {};
  if (of.is_undefined()) return rt.use_of_undefined(of);
  value out;
  if (of.is(kind::dict)) {
    if (hashable(key) && rt.step(weight_of(key))) {
      if (const value* found = of.as<dict_object>().find(key)) return *found;
    }
  } else if (key.is_integral() && (of.is_sequence() || of.is_string() || of.is(kind::range))) {
    return item_at(rt, of, key.as_integer(), out) ? out : missing(rt, of, key);
  }
  if (key.is_string() && own_attribute(rt, of, key.text(), out)) return out;
  return missing(rt, of, key);
}

value slice(runtime& rt, const value& of, const value& start, const value& stop, const value& step) {
  if (!rt.ok()) return {};
  if (of.is_undefined()) return rt.use_of_undefined(of);
  if (!of.is_sequence() && !of.is_string() && !of.is(kind::range)) {
    return rt.error(fmt::format("'{}' object cannot be sliced", type_name(of)));
  }
  slice_range r;
  const std::int64_t n = length(rt, of);
  if (!rt.ok() || !slice_indices(rt, n, start, stop, step, r)) return {};
  if (of.is_string()) return sliced_text(rt, of, r);
  if (of.is(kind::range)) {
    const auto& range = of.as<range_object>();
    if (r.count == 0) return rt.range(range.at(0), range.at(0), 1);
    std::int64_t by = 1;  // of one element the step does not matter
    if (r.count > 1 && __builtin_mul_overflow(r.step, range.step, &by))
      return rt.error("the step of a range does not fit 64 bits");
    const std::int64_t last = range.at(r.start + (r.count - 1) * r.step);
    return rt.range(range.at(r.start), last + (by > 0 ? 1 : -1), by);
  }
  if (!rt.spend(static_cast<std::uint64_t>(r.count) * sizeof(value))) return {};
  std::vector<value> out;
  out.reserve(static_cast<std::size_t>(r.count));
  for (std::int64_t i = 0; i < r.count; ++i) out.push_back(of.items()[static_cast<std::size_t>(r.start + i * r.step)]);
  return of.is(kind::list) ? rt.list(std::move(out)) : rt.tuple(std::move(out));
}

}  // namespace troupe::text::jinja
