#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/text/jinja_format_spec.hpp"
#include "src/text/jinja_ops.hpp"
#include "src/text/jinja_repr.hpp"
#include "src/text/jinja_strings.hpp"
#include "src/text/jinja_unicode.hpp"

/// Python's two ways to format: the format specification of str.format and the conversions of %.
namespace troupe::text::jinja {

namespace {

/// format(v, spec)
std::string format_value(runtime& rt, const value& v, std::string_view spec) {
  if (spec.empty()) return to_text(rt, v);
  specification f;
  if (!parse_specification(rt, spec, f)) return {};
  const bool is_real_type = is_one_of(f.type, "eEfFgG%");
  if (v.is_string() && (f.type == '\0' || f.type == 's')) return format_text(rt, f, v.text());
  if (v.is_integral() && is_real_type) return format_real(f, v.to_real());
  if (v.is_integral() && (f.type == '\0' || is_one_of(f.type, "bcdoxXn")) && f.precision < 0) {
    return format_integer(rt, f, v.as_integer());
  }
  if (v.is(kind::real) && (f.type == '\0' || f.type == 'n' || is_real_type)) return format_real(f, v.as_real());
  if (v.is_undefined()) return rt.use_of_undefined(v), "";
  rt.error(fmt::format("the format '{}' does not fit a value of type '{}'", spec, type_name(v)));
  return {};
}

/// ascii(v)
std::string to_ascii(runtime& rt, const value& v) {
  const std::string s = to_repr(rt, v);
  std::string out;
  for (std::size_t at = 0; at < s.size();) {
    const auto c = static_cast<unsigned>(uni::decode(s, at));
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else {
      out += c < 0x100     ? fmt::format("\\x{:02x}", c)
             : c < 0x10000 ? fmt::format("\\u{:04x}", c)
                           : fmt::format("\\U{:08x}", c);
    }
  }
  return out;
}

/// One walk through a {}-template; nested fields inside of specifications take from the same arguments.
class brace_formatter {
 public:
  brace_formatter(runtime& rt, const call_args& args, bool markup) : rt_(rt), args_(args), markup_(markup) {}

  std::string run(std::string_view s, int nesting) {
    std::string out;
    for (std::size_t at = 0; at < s.size() && rt_.ok();) {
      const char c = s[at];
      if (c != '{' && c != '}') {
        out += c;
        ++at;
      } else if (at + 1 < s.size() && s[at + 1] == c) {
        out += c;
        at += 2;
      } else if (c == '}') {
        rt_.error("a single '}' in a format string");
      } else {
        at = field(s, at + 1, nesting, out);
      }
      if (!rt_.step() || !rt_.may_hold(out.size())) break;
    }
    return out;
  }

 private:
  std::size_t field(std::string_view s, std::size_t at, int nesting, std::string& out) {
    std::size_t end = at;
    for (int open = 1; end < s.size(); ++end) {
      if (s[end] == '{') ++open;
      if (s[end] == '}' && --open == 0) break;
    }
    if (end >= s.size()) {
      rt_.error("a '{' in a format string has no '}'");
      return s.size();
    }
    const std::string_view inside = s.substr(at, end - at);
    // Brackets may hold ! and : as part of a key.
    std::size_t name_end = 0;
    for (bool in_brackets = false; name_end < inside.size(); ++name_end) {
      const char c = inside[name_end];
      if (c == '[') in_brackets = true;
      if (c == ']') in_brackets = false;
      if (!in_brackets && (c == '!' || c == ':')) break;
    }
    char conversion = '\0';
    std::size_t spec_at = name_end;
    if (spec_at < inside.size() && inside[spec_at] == '!') {
      conversion = spec_at + 1 < inside.size() ? inside[spec_at + 1] : '?';
      spec_at += 2;
      if (spec_at < inside.size() && inside[spec_at] != ':') conversion = '?';
    }
    value v = look_up(inside.substr(0, name_end));
    std::string spec;
    if (spec_at < inside.size()) {
      if (nesting > 0) {
        spec = run(inside.substr(spec_at + 1), nesting - 1);
      } else {
        rt_.error("format fields are nested too deeply");
      }
    }
    if (!rt_.ok()) return s.size();
    if (conversion == 's') v = rt_.text(to_text(rt_, v));
    if (conversion == 'r') v = rt_.text(to_repr(rt_, v));
    if (conversion == 'a') v = rt_.text(to_ascii(rt_, v));
    if (conversion != '\0' && !is_one_of(conversion, "sra")) rt_.error("a format string has an unknown conversion");
    const std::string text = format_value(rt_, v, spec);
    out += markup_ && !v.markup() ? escape_html(text) : text;
    return end + 1;
  }

  value look_up(std::string_view name) {
    std::size_t at = 0;
    while (at < name.size() && name[at] != '.' && name[at] != '[') ++at;
    value v = first(name.substr(0, at));
    while (at < name.size() && rt_.ok()) {
      if (name[at] == '.') {
        const std::size_t start = ++at;
        while (at < name.size() && name[at] != '.' && name[at] != '[') ++at;
        v = attribute(rt_, v, name.substr(start, at - start));
      } else {
        const std::size_t close = name.find(']', at);
        if (name[at] != '[' || close == std::string_view::npos) return rt_.error("a format field is malformed");
        const std::string_view key = name.substr(at + 1, close - at - 1);
        const auto number =
            key.find_first_not_of("0123456789") == std::string_view::npos ? to_integer(key, 10) : std::nullopt;
        v = item(rt_, v, number ? value::integer(*number) : rt_.text(std::string(key)));
        at = close + 1;
      }
    }
    return v;
  }

  value first(std::string_view name) {
    std::size_t index = 0;
    if (name.empty()) {
      index = next_++;
    } else if (name.find_first_not_of("0123456789") == std::string_view::npos) {
      index = static_cast<std::size_t>(to_integer(name, 10).value_or(-1));
    } else {
      for (const auto& [key, v] : args_.named) {
        if (key == name) return v;
      }
      return rt_.error(fmt::format("a format string names '{}', which is not given", name));
    }
    if (index < args_.positional.size()) return args_.positional[index];
    return rt_.error("a format string has more fields than there are arguments");
  }

  runtime& rt_;
  const call_args& args_;
  bool markup_;
  std::size_t next_ = 0;
};

class percent_formatter {
 public:
  percent_formatter(runtime& rt, const value& text, const value& args) : rt_(rt), text_(text), args_(args) {}

  value run() {
    const std::string_view s = text_.text();
    std::string out;
    for (std::size_t at = 0; at < s.size() && rt_.step() && rt_.may_hold(out.size());) {
      const std::size_t mark = std::min(s.find('%', at), s.size());
      out += s.substr(at, mark - at);
      at = mark;
      if (at < s.size()) at = conversion(s, at + 1, out);
    }
    if (!rt_.ok()) return {};
    // What can be subscribed counts as a mapping, whose items need not all be used.
    const bool is_mapping =
        args_.is(kind::dict) || args_.is(kind::list) || args_.is(kind::range) || args_.is_undefined();
    const std::size_t given = args_.is(kind::tuple) ? args_.items().size() : is_mapping ? 0 : 1;
    if (taken_ < given) return rt_.error("not all arguments were used by the % format");
    return rt_.text(std::move(out), text_.markup());
  }

 private:
  value next() {
    if (args_.is(kind::tuple)) {
      if (taken_ < args_.items().size()) return args_.items()[taken_++];
    } else if (taken_++ == 0) {
      return args_;
    }
    return rt_.error("not enough arguments for the % format");
  }

  bool star(std::string_view s, std::size_t& at, std::int64_t& out) {
    if (at >= s.size() || s[at] != '*') return false;
    ++at;
    const value v = next();
    if (!v.is_integral()) return rt_.error("* in a % format wants a whole number"), false;
    out = std::clamp<std::int64_t>(v.as_integer(), -(1 << 30), 1 << 30);
    return true;
  }

  std::size_t conversion(std::string_view s, std::size_t at, std::string& out) {
    value keyed;
    bool has_key = false;
    if (at < s.size() && s[at] == '(') {
      const std::size_t close = s.find(')', at);
      if (close == std::string_view::npos) return rt_.error("a % format has an unfinished key"), s.size();
      if (!args_.is(kind::dict)) return rt_.error("a % format with keys wants a mapping"), s.size();
      const value* found = args_.as<dict_object>().find(s.substr(at + 1, close - at - 1));
      if (!found) return rt_.error("a % format names a key that is not given"), s.size();
      keyed = *found;
      has_key = true;
      at = close + 1;
    }
    specification f;
    f.align = '>';
    bool left = false, zeros = false;
    for (; at < s.size() && is_one_of(s[at], "#0- +"); ++at) {
      if (s[at] == '#') f.alternate = true;
      if (s[at] == '0') zeros = true;
      if (s[at] == '-') left = true;
      if (s[at] == '+' || (s[at] == ' ' && f.sign != '+')) f.sign = s[at];
    }
    if (!star(s, at, f.width)) read_number(s, at, f.width);
    if (f.width < 0) {
      left = true;
      f.width = -f.width;
    }
    if (at < s.size() && s[at] == '.') {
      ++at;
      f.precision = 0;
      if (!star(s, at, f.precision)) read_number(s, at, f.precision);
      f.precision = std::max<std::int64_t>(f.precision, 0);
    }
    if (at < s.size() && is_one_of(s[at], "hlL")) ++at;
    if (at >= s.size()) return rt_.error("a % format is incomplete"), s.size();
    f.type = s[at++];
    if (left) f.align = '<';
    if (f.type == '%') {
      out += '%';
      return at;
    }
    if (!rt_.may_hold(static_cast<std::uint64_t>(f.width)) || !rt_.spend(static_cast<std::uint64_t>(f.width)))
      return at;
    const value v = has_key ? keyed : next();
    if (rt_.ok()) out += one(f, zeros && !left, v);
    return at;
  }

  std::string one(specification& f, bool zeros, const value& v) {
    if (is_one_of(f.type, "sra")) {
      std::string text = f.type == 's' ? to_text(rt_, v) : f.type == 'r' ? to_repr(rt_, v) : to_ascii(rt_, v);
      if (text_.markup() && !v.markup()) text = escape_html(text);
      f.type = 's';
      return format_text(rt_, f, text);
    }
    if (f.type == 'c') {
      if (v.is_string() && uni::length(v.text()) == 1) return format_text(rt_, f, v.text());
      if (v.is_integral()) return padded(f, '>', "", format_integer(rt_, {.type = 'c'}, v.as_integer()));
      return rt_.error("%c wants one character"), "";
    }
    if (zeros) f.align = '=', f.fill = '0';
    if (f.precision > most_precision) return rt_.error(fmt::format("a precision is at most {}", most_precision)), "";
    if (!rt_.step(static_cast<std::uint64_t>(std::max<std::int64_t>(f.precision, 0)))) return "";
    if (is_one_of(f.type, "eEfFgG")) {
      if (!v.is_integral() && !v.is(kind::real)) return wrong_type(f.type, v);
      return format_real(f, v.to_real());
    }
    if (!is_one_of(f.type, "diuoxX")) return rt_.error(fmt::format("unsupported % format character '{}'", f.type)), "";
    const bool decimal = is_one_of(f.type, "diu");
    std::int64_t i = 0;
    if (v.is_integral()) {
      i = v.as_integer();
    } else if (decimal && v.is(kind::real) && std::fabs(v.as_real()) < 9.2e18) {
      i = static_cast<std::int64_t>(v.as_real());
    } else if (v.is(kind::big_integer) && decimal) {
      return padded(f, '>', "", v.text());
    } else {
      return wrong_type(f.type, v);
    }
    if (decimal) f.type = 'd';
    if (f.precision >= 0) {
      // The precision of a whole number is its least number of digits.
      std::string digits = format_integer(rt_, {.type = f.type}, i);
      const bool negative = digits[0] == '-';
      digits.erase(0, negative ? 1 : 0);
      if (static_cast<std::int64_t>(digits.size()) < f.precision) {
        digits.insert(0, static_cast<std::size_t>(f.precision) - digits.size(), '0');
      }
      return padded(f, '>', sign_text(f, negative), digits);
    }
    return format_integer(rt_, f, i);
  }

  std::string wrong_type(char type, const value& v) {
    if (v.is_undefined()) return rt_.use_of_undefined(v), "";
    return rt_.error(fmt::format("%{} wants a number, not '{}'", type, type_name(v))), "";
  }

  runtime& rt_;
  const value& text_;
  const value& args_;
  std::size_t taken_ = 0;
};

}  // namespace

value format_percent(runtime& rt, const value& text, const value& arguments) {
  return percent_formatter(rt, text, arguments).run();
}

value format_braces(runtime& rt, const value& text, const call_args& args) {
  std::string out = brace_formatter(rt, args, text.markup()).run(text.text(), 2);
  return rt.ok() ? rt.text(std::move(out), text.markup()) : value();
}

}  // namespace troupe::text::jinja
