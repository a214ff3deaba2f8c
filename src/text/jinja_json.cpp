#include "src/text/jinja_json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <charconv>
#include <cmath>

#include "src/text/jinja_ops.hpp"
#include "src/text/jinja_repr.hpp"
#include "src/text/jinja_sort.hpp"
#include "src/text/jinja_strings.hpp"
#include "src/text/jinja_unicode.hpp"

namespace troupe::text::jinja {

namespace {

/// Receives the parser's events. The document is built here and not as a boost::json::value because that one rounds
/// numbers: 64 bits for integers, and doubles not always to the nearest.
struct json_builder {
  using error_code = boost::json::error_code;
  using string_view = boost::json::string_view;
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);

  struct open_container {
    std::shared_ptr<dict_object> dict;
    std::vector<value> items;
    std::string key;
  };
  std::vector<open_container> open;
  std::string text;
  value root;

  bool add(value v) {
    if (open.empty()) {
      root = std::move(v);
    } else if (open.back().dict) {
      open.back().dict->set(value::raw_text(std::move(open.back().key)), std::move(v));
    } else {
      open.back().items.push_back(std::move(v));
    }
    return true;
  }

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }
  bool on_object_begin(error_code&) {
    open.push_back({std::make_shared<dict_object>(), {}, {}});
    return true;
  }
  bool on_object_end(std::size_t, error_code&) {
    auto d = std::move(open.back().dict);
    open.pop_back();
    return add(value::of(kind::dict, std::move(d)));
  }
  bool on_array_begin(error_code&) {
    open.emplace_back();
    return true;
  }
  bool on_array_end(std::size_t, error_code&) {
    auto o = std::make_shared<list_object>();
    o->items = std::move(open.back().items);
    for (const value& v : o->items) o->hold(v);
    open.pop_back();
    return add(value::of(kind::list, std::move(o)));
  }
  bool part(string_view s) {
    text.append(s.data(), s.size());
    return true;
  }
  std::string whole(string_view s) {
    part(s);
    return std::exchange(text, {});
  }
  bool on_key_part(string_view s, std::size_t, error_code&) { return part(s); }
  bool on_key(string_view s, std::size_t, error_code&) {
    open.back().key = whole(s);
    return true;
  }
  bool on_string_part(string_view s, std::size_t, error_code&) { return part(s); }
  bool on_string(string_view s, std::size_t, error_code&) { return add(value::raw_text(whole(s))); }
  bool on_number_part(string_view s, error_code&) { return part(s); }
  bool number(string_view s) {
    std::string digits = whole(s);
    if (digits.find_first_of(".eE") != std::string::npos) return add(value::real(parse_real(digits)));
    std::int64_t i = 0;
    const auto r = std::from_chars(digits.data(), digits.data() + digits.size(), i);
    return add(r.ec == std::errc() ? value::integer(i) : value::big_integer(std::move(digits)));
  }
  bool on_int64(std::int64_t, string_view s, error_code&) { return number(s); }
  bool on_uint64(std::uint64_t, string_view s, error_code&) { return number(s); }
  bool on_double(double, string_view s, error_code&) { return number(s); }
  bool on_bool(bool b, error_code&) { return add(value::boolean(b)); }
  bool on_null(error_code&) { return add(value::none()); }
  bool on_comment_part(string_view, error_code&) { return true; }
  bool on_comment(string_view, error_code&) { return true; }
};

}  // namespace

result<value> parse_json(std::string_view text, std::string_view what, const limits& bounds) {
  boost::json::parse_options how;
  how.max_depth = bounds.value_depth;
  boost::json::basic_parser<json_builder> parser(how);
  boost::json::error_code failed;
  std::size_t used = parser.write_some(false, text.data(), text.size(), failed);
  while (!failed && used < text.size() && std::string_view(" \t\r\n").find(text[used]) != std::string_view::npos)
    ++used;
  if (!failed && used < text.size()) failed = boost::json::error::extra_data;
  if (!failed && !parser.done()) failed = boost::json::error::incomplete;
  if (failed) {
    return failure(errc::invalid_argument,
                   fmt::format("{}: not valid JSON at byte {} ({}): correct it", what, used, failed.message()));
  }
  return std::move(parser.handler().root);
}

namespace {

class json_writer {
 public:
  json_writer(runtime& rt, const json_style& style) : rt_(rt), style_(style) {}

  std::string out;

  void write(const value& v, int nesting) {
    if (!rt_.step() || !rt_.may_hold(out.size())) return;
    switch (v.type()) {
      case kind::none:
        out += "null";
        return;
      case kind::boolean:
        out += v.as_bool() ? "true" : "false";
        return;
      case kind::integer:
        out += std::to_string(v.as_integer());
        return;
      case kind::big_integer:
        out += v.text();
        return;
      case kind::real:
        out += real(v.as_real());
        return;
      case kind::string:
        quote(v.text());
        return;
      case kind::list:
      case kind::tuple:
        items(v.items(), nesting);
        return;
      case kind::dict:
        dict(v.as<dict_object>(), nesting);
        return;
      default:
        rt_.error(fmt::format("a value of type '{}' has no JSON", type_name(v)));
    }
  }

 private:
  static std::string real(double d) {
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d < 0 ? "-Infinity" : "Infinity";
    return real_repr(d);
  }

  void line(int nesting) {
    if (!style_.indent) return;
    out += '\n';
    for (int i = 0; i < nesting && rt_.may_hold(out.size()); ++i) out += *style_.indent;
  }

  void items(const std::vector<value>& all, int nesting) {
    if (all.empty()) {
      out += "[]";
      return;
    }
    out += '[';
    for (std::size_t i = 0; i < all.size() && rt_.ok(); ++i) {
      if (i) out += style_.item_separator;
      line(nesting + 1);
      write(all[i], nesting + 1);
    }
    line(nesting);
    out += ']';
  }

  void dict(const dict_object& d, int nesting) {
    if (d.items.empty()) {
      out += "{}";
      return;
    }
    std::vector<const std::pair<value, value>*> order;
    if (!rt_.spend(d.items.size() * sizeof(void*))) return;
    for (const auto& kv : d.items) order.push_back(&kv);
    if (style_.sort_keys) {
      sort_stably(order, [&](auto* a, auto* b) { return less(rt_, a->first, b->first); });
    }
    out += '{';
    for (std::size_t i = 0; i < order.size() && rt_.ok(); ++i) {
      if (i) out += style_.item_separator;
      line(nesting + 1);
      key(order[i]->first);
      out += style_.key_separator;
      write(order[i]->second, nesting + 1);
    }
    line(nesting);
    out += '}';
  }

  void key(const value& k) {
    switch (k.type()) {
      case kind::string:
        quote(k.text());
        return;
      case kind::none:
        quote("null");
        return;
      case kind::boolean:
        quote(k.as_bool() ? "true" : "false");
        return;
      case kind::integer:
        quote(std::to_string(k.as_integer()));
        return;
      case kind::big_integer:
        quote(k.text());
        return;
      case kind::real:
        quote(real(k.as_real()));
        return;
      default:
        rt_.error(fmt::format("a key of type '{}' has no JSON", type_name(k)));
    }
  }

  void quote(std::string_view s) {
    if (!rt_.scan(s.size() * 4)) return;
    out += '"';
    for (std::size_t at = 0; at < s.size();) {
      const auto c = static_cast<unsigned char>(s[at]);
      if (c >= 0x80) {
        const std::size_t start = at;
        const char32_t code = uni::decode(s, at);
        if (style_.ascii) {
          escape_code(code);
        } else {
          out += s.substr(start, at - start);
        }
        continue;
      }
      ++at;
      switch (c) {
        case '"':
          out += "\\\"";
          break;
        case '\\':
          out += "\\\\";
          break;
        case '\n':
          out += "\\n";
          break;
        case '\r':
          out += "\\r";
          break;
        case '\t':
          out += "\\t";
          break;
        case '\b':
          out += "\\b";
          break;
        case '\f':
          out += "\\f";
          break;
        default:
          if (c < 0x20 || (c == 0x7F && style_.ascii)) {
            escape_code(c);
          } else {
            out += static_cast<char>(c);
          }
      }
    }
    out += '"';
  }

  void escape_code(char32_t c) {
    if (c >= 0x10000) {
      const auto rest = static_cast<unsigned>(c - 0x10000);
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
    } else {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    }
  }

  runtime& rt_;
  const json_style& style_;
};

}  // namespace

std::string to_json(runtime& rt, const value& v, const json_style& style) {
  json_writer w(rt, style);
  w.write(v, 0);
  rt.may_hold(w.out.size());
  return std::move(w.out);
}

value tojson(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  if (!a.ok()) return {};
  json_style style;
  style.ascii = a.flag(0, false);
  style.sort_keys = a.flag(3, false);
  if (a.has(1) && !a[1].is_none()) {
    if (a[1].is_string()) {
      style.indent = a[1].text();
    } else {
      const std::int64_t n = std::max<std::int64_t>(a.integer(1, 0), 0);
      if (!a.ok() || !rt.may_hold(static_cast<std::uint64_t>(n))) return {};
      style.indent = std::string(static_cast<std::size_t>(n), ' ');
    }
    style.item_separator = ",";
  }
  if (a.has(2) && !a[2].is_none()) {
    if (!a[2].is_sequence() || a[2].items().size() != 2 || !a[2].items()[0].is_string() ||
        !a[2].items()[1].is_string()) {
      return rt.error("tojson: separators are two strings");
    }
    style.item_separator = a[2].items()[0].text();
    style.key_separator = a[2].items()[1].text();
  }
  std::string out = to_json(rt, v, style);
  return rt.ok() ? rt.text(std::move(out)) : value();
}

}  // namespace troupe::text::jinja
