#include <fmt/format.h>

#include <algorithm>

#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_iter.hpp"
#include "src/text/jinja_json.hpp"
#include "src/text/jinja_ops.hpp"
#include "src/text/jinja_repr.hpp"
#include "src/text/jinja_strings.hpp"
#include "src/text/jinja_text_tools.hpp"
#include "src/text/jinja_unicode.hpp"

/// Filters that give strings.
namespace troupe::text::jinja {

namespace {

/// str(v), but a string marked safe stays one.
value soft(runtime& rt, const value& v) { return v.is_string() ? v : rt.text(to_text(rt, v)); }

template <std::string (*Map)(std::string_view)>
value mapped(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "filter", args, {});
  const value s = soft(rt, v);
  if (!a.ok() || !rt.ok() || !rt.scan(s.text().size() * 8)) return {};
  return rt.text(Map(s.text()), s.markup());
}

value trim(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "trim", args, {"chars"});
  const value s = soft(rt, v);
  return a.ok() && rt.ok() ? strip(rt, s, a[0], true, true) : value();
}

/// Words begin behind white space, hyphens and opening brackets; unlike str.title an apostrophe does not begin one.
std::string title_words(std::string_view s) {
  std::string out;
  std::size_t start = 0;
  auto breaks = [](char32_t c) { return uni::is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<'; };
  auto flush = [&](std::size_t end) {
    const std::string_view word = s.substr(start, end - start);
    std::size_t first = 0;
    if (!word.empty()) uni::decode(word, first);
    out += uni::upper(word.substr(0, first));
    out += uni::lower(word.substr(first));
  };
  for (std::size_t at = 0; at < s.size();) {
    const std::size_t here = at;
    if (!breaks(uni::decode(s, at))) continue;
    flush(here);
    out += s.substr(here, at - here);
    start = at;
  }
  flush(s.size());
  return out;
}

value replaced(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "replace", args, {"old", "new", "count"}, 2);
  const std::int64_t most = a.integer(2, -1);
  if (!a.ok()) return {};
  const value s = rt.text(to_text(rt, v));
  const std::string from = to_text(rt, a[0]), to = to_text(rt, a[1]);
  return rt.ok() ? replace(rt, s, from, to, most) : value();
}

value indent(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "indent", args, {"width", "first", "blank"});
  if (!a.ok()) return {};
  if (v.is_undefined()) return rt.use_of_undefined(v);
  if (!v.is_string()) return rt.error(fmt::format("indent wants a string, not '{}'", type_name(v)));
  std::string by;
  if (a[0].is_string()) {
    by = a[0].text();
  } else {
    const std::int64_t n = std::max<std::int64_t>(a.integer(0, 4), 0);
    if (!a.ok() || !rt.may_hold(static_cast<std::uint64_t>(n))) return {};
    by.assign(static_cast<std::size_t>(n), ' ');
  }
  const std::string source = v.text() + "\n";
  if (!rt.scan(source.size() * 8) || !rt.spend(source.size() * 4)) return {};
  std::string out = a.flag(1, false) ? by : "";
  bool first_line = true;
  for (std::string_view line : split_lines(source, false)) {
    if (!first_line) {
      out += '\n';
      if (a.flag(2, false) || !line.empty()) out += by;
    }
    out += line;
    first_line = false;
    if (!rt.may_hold(out.size()) || !rt.step(1 + by.size() / 256)) return {};
  }
  return rt.text(std::move(out), v.markup());
}

value as_string(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "string", args, {});
  return a.ok() ? soft(rt, v) : value();
}

value safe(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "safe", args, {});
  return a.ok() ? rt.text(to_text(rt, v), true) : value();
}

value escape(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "escape", args, {});
  if (!a.ok() || v.markup()) return v;
  return rt.text(escape_html(to_text(rt, v)), true);
}

value force_escape(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "forceescape", args, {});
  return a.ok() ? rt.text(escape_html(to_text(rt, v)), true) : value();
}

std::string quote_url(std::string_view s, bool in_query) {
  std::string out;
  for (char c : s) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
                       c == '.' || c == '-' || c == '~' || (c == '/' && !in_query);
    if (plain) {
      out += c;
    } else if (c == ' ' && in_query) {
      out += '+';
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

value url_encode(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "urlencode", args, {});
  if (!a.ok()) return {};
  if (v.is_string() || !is_iterable(v)) {
    const std::string s = to_text(rt, v);
    return rt.scan(s.size() * 16) ? rt.text(quote_url(s, false)) : value();
  }
  std::string out;
  auto it = iterate(rt, v.is(kind::dict) ? rt.view(v, view_kind::items) : v);
  value pair;
  while (it && it->next(rt, pair)) {
    const std::vector<value> kv = collect(rt, pair);
    if (rt.ok() && kv.size() != 2) rt.error("urlencode wants pairs");
    if (!rt.ok()) return {};
    if (!out.empty()) out += '&';
    out += quote_url(to_text(rt, kv[0]), true) + "=" + quote_url(to_text(rt, kv[1]), true);
    if (!rt.may_hold(out.size())) return {};
  }
  return rt.text(std::move(out));
}

value word_count(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "wordcount", args, {});
  const std::string s = to_text(rt, v);
  if (!a.ok() || !rt.scan(s.size() * 8)) return {};
  std::int64_t n = 0;
  bool inside = false;
  for (std::size_t at = 0; at < s.size();) {
    const bool word = uni::is_word(uni::decode(s, at));
    n += word && !inside;
    inside = word;
  }
  return value::integer(n);
}

value format(runtime& rt, const value& v, const call_args& args) {
  if (!args.positional.empty() && !args.named.empty()) {
    return rt.error("format cannot take positional and keyword arguments at the same time");
  }
  const value s = soft(rt, v);
  if (!rt.ok()) return {};
  if (args.named.empty()) return format_percent(rt, s, rt.tuple(args.positional));
  auto d = std::make_shared<dict_object>();
  for (const auto& [k, x] : args.named) rt.set(*d, rt.text(k), x);
  return rt.ok() ? format_percent(rt, s, rt.dict(std::move(d))) : value();
}

value truncate(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "truncate", args, {"length", "killwords", "end", "leeway"});
  const std::int64_t most = a.integer(0, 255), leeway = a.integer(3, 5);
  const std::string end = a.string(2, "...");
  if (!a.ok()) return {};
  const auto end_size = static_cast<std::int64_t>(uni::length(end));
  if (most < end_size || leeway < 0)
    return rt.error("truncate: the length is shorter than the end, or leeway negative");
  const std::int64_t n = length(rt, v);
  // Whatever is short enough passes, lists too.
  if (!rt.ok() || n - leeway <= most) return v;
  if (!v.is_string()) return rt.error(fmt::format("truncate wants a string, not '{}'", type_name(v)));
  const value head = code_points(rt, v, 0, static_cast<std::size_t>(most - end_size));
  if (!rt.ok()) return {};
  std::string_view kept = head.text();
  if (!a.flag(1, false)) kept = kept.substr(0, kept.rfind(' '));
  return rt.text(std::string(kept) + end, v.markup());
}

value center(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "center", args, {"width"});
  const std::int64_t width = a.integer(0, 80);
  const value s = soft(rt, v);
  if (!a.ok() || !rt.ok()) return {};
  return find_text_method("center")->run(rt, s, {{value::integer(width)}, {}});
}

value join(runtime& rt, const value& v, const call_args& args) {
  bound_args a(rt, "join", args, {"d", "attribute"});
  if (!a.ok()) return {};
  const std::string between = to_text(rt, a[0]);
  attribute_path path(rt, a[1]);
  auto it = iterate(rt, v);
  std::string out;
  value item;
  for (bool first = true; it && it->next(rt, item); first = false) {
    if (!first) out += between;
    append_text(rt, out, path.of(rt, item));
    if (!rt.may_hold(out.size()) || !rt.step(between.size() / 256)) return {};
  }
  return rt.ok() ? rt.text(std::move(out)) : value();
}

const filter_entry filters[] = {
    {"trim", trim},
    {"tojson", tojson},
    {"join", join},
    {"upper", mapped<uni::upper>},
    {"lower", mapped<uni::lower>},
    {"title", mapped<title_words>},
    {"capitalize", mapped<uni::capitalize>},
    {"replace", replaced},
    {"indent", indent},
    {"string", as_string},
    {"safe", safe},
    {"e", escape},
    {"escape", escape},
    {"forceescape", force_escape},
    {"urlencode", url_encode},
    {"wordcount", word_count},
    {"format", format},
    {"truncate", truncate},
    {"center", center},
};

}  // namespace

const filter_entry* find_text_filter(std::string_view name) { return find_entry(filters, name); }

}  // namespace troupe::text::jinja
