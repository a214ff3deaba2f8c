#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_iter.hpp"
#include "src/text/jinja_ops.hpp"
#include "src/text/jinja_repr.hpp"
#include "src/text/jinja_text_tools.hpp"
#include "src/text/jinja_unicode.hpp"

/// The methods of Python's str.
namespace troupe::text::jinja {

std::size_t find_first(std::string_view text, std::string_view needle, std::size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  const void* hit = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  return hit ? static_cast<std::size_t>(static_cast<const char*>(hit) - text.data()) : std::string_view::npos;
}

std::size_t find_last(runtime& rt, std::string_view text, std::string_view needle) {
  if (!rt.step(1 + text.size() / 1024 * std::max<std::size_t>(needle.size(), 1))) return std::string_view::npos;
  return text.rfind(needle);
}

value strip(runtime& rt, const value& s, const value& chars, bool left, bool right) {
  std::string_view text = s.text();
  if (!rt.scan(text.size())) return {};
  if (chars.is_undefined() || chars.is_none()) {
    if (left) text = uni::strip_left(text);
    if (right) text = uni::strip_right(text);
    return rt.text(text, s);
  }
  if (!chars.is_string()) return rt.error("strip wants a string of characters or none");
  std::u32string set;
  for (std::size_t at = 0; at < chars.text().size();) set += uni::decode(chars.text(), at);
  if (!rt.step(set.size() + text.size() / 16)) return {};
  std::sort(set.begin(), set.end());
  auto in_set = [&](char32_t c) { return std::binary_search(set.begin(), set.end(), c); };
  while (left && !text.empty()) {
    std::size_t at = 0;
    if (!in_set(uni::decode(text, at))) break;
    text.remove_prefix(at);
  }
  while (right && !text.empty()) {
    std::size_t at = text.size();
    if (!in_set(uni::decode_back(text, at))) break;
    text = text.substr(0, at);
  }
  return rt.text(text, s);
}

value replace(runtime& rt, const value& s, std::string_view from, std::string_view to, std::int64_t most) {
  const std::string_view text = s.text();
  if (!rt.scan(text.size() * 4)) return {};
  std::string out;
  std::uint64_t left = most < 0 ? ~std::uint64_t{0} : static_cast<std::uint64_t>(most);
  if (from.empty()) {
    // Between all characters, and at both ends.
    std::size_t at = 0;
    while (true) {
      if (left > 0) {
        out += to;
        --left;
      }
      if (at >= text.size() || !rt.may_hold(out.size()) || !rt.step(1 + to.size() / 256)) break;
      const std::size_t start = at;
      uni::decode(text, at);
      out += text.substr(start, at - start);
    }
    return rt.ok() ? rt.text(std::move(out), s.markup()) : value();
  }
  std::size_t at = 0;
  while (left > 0) {
    const std::size_t hit = find_first(text, from, at);
    if (hit == std::string_view::npos) break;
    out += text.substr(at, hit - at);
    out += to;
    at = hit + from.size();
    --left;
    if (!rt.may_hold(out.size()) || !rt.step(1 + to.size() / 256)) return {};
  }
  if (at == 0) return s;
  out += text.substr(at);
  return rt.text(std::move(out), s.markup());
}

std::vector<std::string_view> split_lines(std::string_view s, bool keep_ends) {
  std::vector<std::string_view> out;
  std::size_t start = 0;
  for (std::size_t at = 0; at < s.size();) {
    const std::size_t here = at;
    const char32_t c = uni::decode(s, at);
    if (!uni::is_line_break(c)) continue;
    if (c == '\r' && at < s.size() && s[at] == '\n') ++at;
    out.push_back(s.substr(start, (keep_ends ? at : here) - start));
    start = at;
  }
  if (start < s.size()) out.push_back(s.substr(start));
  return out;
}

namespace {

value simple(runtime& rt, const value& self, const call_args& args, const char* name,
             std::string (*map)(std::string_view)) {
  bound_args a(rt, name, args, {});
  if (!a.ok() || !rt.scan(self.text().size() * 8)) return {};
  return rt.text(map(self.text()), self.markup());
}

template <class Test>
value all_characters(runtime& rt, const value& self, const call_args& args, const char* name, bool when_empty,
                     Test test) {
  bound_args a(rt, name, args, {});
  const std::string_view s = self.text();
  if (!a.ok() || !rt.scan(s.size() * 8)) return {};
  if (s.empty()) return value::boolean(when_empty);
  for (std::size_t at = 0; at < s.size();) {
    const bool first = at == 0;
    if (!test(uni::decode(s, at), first)) return value::boolean(false);
  }
  return value::boolean(true);
}

value stripped(runtime& rt, const value& self, const call_args& args, const char* name, bool left, bool right) {
  bound_args a(rt, name, args, {""});
  return a.ok() ? strip(rt, self, a[0], left, right) : value();
}

value pieces(runtime& rt, const value& like, std::vector<std::string_view> parts) {
  std::vector<value> out;
  out.reserve(parts.size());
  for (std::string_view p : parts) {
    if (!rt.step()) return {};
    out.push_back(rt.text(p, like));
  }
  return rt.list(std::move(out));
}

/// str.split without a separator: runs of white space divide, at the ends they are dropped. What is left when the
/// splits are used up keeps the white space at its outer end.
std::vector<std::string_view> split_at_space(std::string_view s, std::int64_t most, bool from_right) {
  std::vector<std::string_view> out;
  s = from_right ? uni::strip_right(s) : uni::strip_left(s);
  while (!s.empty()) {
    if (most >= 0 && static_cast<std::int64_t>(out.size()) >= most) {
      out.push_back(s);
      break;
    }
    if (from_right) {
      std::size_t at = s.size();
      std::size_t start = at;
      while (at > 0 && !uni::is_space(uni::decode_back(s, at))) start = at;
      out.push_back(s.substr(start));
      s = uni::strip_right(s.substr(0, start));
    } else {
      std::size_t at = 0, end = 0;
      while (at < s.size() && !uni::is_space(uni::decode(s, at))) end = at;
      out.push_back(s.substr(0, end));
      s = uni::strip_left(s.substr(end));
    }
  }
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

value split(runtime& rt, const value& self, const call_args& args, bool from_right) {
  bound_args a(rt, from_right ? "rsplit" : "split", args, {"sep", "maxsplit"});
  const std::int64_t most = a.integer(1, -1);
  std::string_view s = self.text();
  if (!a.ok() || !rt.scan(s.size() * 4)) return {};
  std::vector<std::string_view> out;
  if (!a.has(0) || a[0].is_none()) {
    if (!rt.spend(s.size() * 8)) return {};
    out = split_at_space(s, most, from_right);
    return pieces(rt, self, std::move(out));
  }
  if (!a[0].is_string()) return rt.error(fmt::format("split wants a string, not '{}'", type_name(a[0])));
  const std::string_view sep = a[0].text();
  if (sep.empty()) return rt.error("split wants a separator that is not empty");
  while (most < 0 || static_cast<std::int64_t>(out.size()) < most) {
    const std::size_t hit = from_right ? find_last(rt, s, sep) : find_first(s, sep);
    if (hit == std::string_view::npos || !rt.spend(64)) break;
    out.push_back(from_right ? s.substr(hit + sep.size()) : s.substr(0, hit));
    s = from_right ? s.substr(0, hit) : s.substr(hit + sep.size());
  }
  out.push_back(s);
  if (from_right) std::reverse(out.begin(), out.end());
  return pieces(rt, self, std::move(out));
}

value partition(runtime& rt, const value& self, const call_args& args, bool from_right) {
  bound_args a(rt, "partition", args, {""}, 1);
  const std::string sep = a.string(0, "");
  const std::string_view s = self.text();
  if (!a.ok() || !rt.scan(s.size() * 4)) return {};
  if (sep.empty()) return rt.error("partition wants a separator that is not empty");
  const std::size_t hit = from_right ? find_last(rt, s, sep) : find_first(s, sep);
  const value none = rt.text("", self.markup());
  if (hit == std::string_view::npos)
    return rt.tuple(from_right ? std::vector{none, none, self} : std::vector{self, none, none});
  return rt.tuple({rt.text(s.substr(0, hit), self), a[0], rt.text(s.substr(hit + sep.size()), self)});
}

/// The part of the text between the optional arguments start and end, and how many code points stand before it.
bool window(runtime& rt, const value& self, bound_args& a, std::string_view& out, std::size_t& before) {
  out = self.text();
  before = 0;
  if (!a.has(1) && !a.has(2)) return a.ok() && rt.scan(out.size() * 4);
  const auto n = static_cast<std::int64_t>(uni::length(out));
  std::int64_t from = a.integer(1, 0), to = a.integer(2, n);
  if (!a.ok() || !rt.scan(out.size() * 4)) return false;
  if (from < 0) from = std::max<std::int64_t>(from + n, 0);
  if (to < 0) to = std::max<std::int64_t>(to + n, 0);
  to = std::min(to, n);
  if (from > to) {
    out = {};
    before = static_cast<std::size_t>(-1);  // not even an empty text is found there
    return true;
  }
  before = static_cast<std::size_t>(from);
  out = out.substr(uni::byte_offset(out, before));
  out = out.substr(0, uni::byte_offset(out, static_cast<std::size_t>(to - from)));
  return true;
}

value find(runtime& rt, const value& self, const call_args& args, const char* name, bool from_right, bool must) {
  bound_args a(rt, name, args, {"", "", ""}, 1);
  const std::string what = a.string(0, "");
  std::string_view s;
  std::size_t before = 0;
  if (!window(rt, self, a, s, before)) return {};
  std::size_t hit = std::string_view::npos;
  if (before != static_cast<std::size_t>(-1)) hit = from_right ? find_last(rt, s, what) : find_first(s, what);
  if (hit == std::string_view::npos) return must ? rt.error("substring not found") : value::integer(-1);
  return value::integer(static_cast<std::int64_t>(before + uni::length(s.substr(0, hit))));
}

value count(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "count", args, {"", "", ""}, 1);
  const std::string what = a.string(0, "");
  std::string_view s;
  std::size_t before = 0;
  if (!window(rt, self, a, s, before)) return {};
  if (before == static_cast<std::size_t>(-1)) return value::integer(0);
  if (what.empty()) return value::integer(static_cast<std::int64_t>(uni::length(s) + 1));
  std::int64_t n = 0;
  for (std::size_t at = find_first(s, what); at != std::string_view::npos && rt.step(); ++n) {
    at = find_first(s, what, at + what.size());
  }
  return value::integer(n);
}

value starts_or_ends(runtime& rt, const value& self, const call_args& args, bool starts) {
  bound_args a(rt, starts ? "startswith" : "endswith", args, {"", "", ""}, 1);
  std::string_view s;
  std::size_t before = 0;
  if (!window(rt, self, a, s, before)) return {};
  if (before == static_cast<std::size_t>(-1)) return value::boolean(false);
  auto one = [&](const value& v) {
    if (!v.is_string()) {
      rt.error(fmt::format("startswith and endswith want a string or a tuple of strings, not '{}'", type_name(v)));
      return false;
    }
    const std::string_view t = v.text();
    return t.size() <= s.size() && (starts ? s.substr(0, t.size()) : s.substr(s.size() - t.size())) == t;
  };
  if (!a[0].is(kind::tuple)) return value::boolean(one(a[0]));
  for (const value& v : a[0].items()) {
    if (!rt.scan(s.size()) || one(v)) return value::boolean(true);
  }
  return value::boolean(false);
}

value join(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "join", args, {""}, 1);
  if (!a.ok()) return {};
  auto it = iterate(rt, a[0]);
  std::string out;
  value v;
  for (bool first = true; it && it->next(rt, v); first = false) {
    if (!v.is_string()) return rt.error(fmt::format("join wants strings, found '{}'", type_name(v)));
    if (!first) out += self.text();
    out += v.text();
    if (!rt.scan(self.text().size() + v.text().size()) || !rt.may_hold(out.size())) return {};
  }
  return rt.ok() ? rt.text(std::move(out), self.markup()) : value();
}

value padded(runtime& rt, const value& self, const call_args& args, char align) {
  bound_args a(rt, "ljust, rjust, center", args, {"", ""}, 1);
  const std::int64_t width = a.integer(0, 0);
  const std::string fill = a.string(1, " ");
  if (a.ok() && uni::length(fill) != 1) return rt.error("the fill of ljust, rjust and center is one character");
  if (!a.ok() || !rt.may_hold(static_cast<std::uint64_t>(std::max<std::int64_t>(width, 0)))) return {};
  const auto n = std::max<std::int64_t>(width - static_cast<std::int64_t>(uni::length(self.text())), 0);
  // As CPython: the odd character of center goes to the left when the width is odd.
  const std::int64_t left = align == '<' ? 0 : align == '>' ? n : n / 2 + (n & width & 1);
  std::string out;
  for (std::int64_t i = 0; i < left; ++i) out += fill;
  out += self.text();
  for (std::int64_t i = left; i < n; ++i) out += fill;
  return rt.text(std::move(out), self.markup());
}

value zfill(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "zfill", args, {""}, 1);
  const std::int64_t width = a.integer(0, 0);
  if (!a.ok() || !rt.may_hold(static_cast<std::uint64_t>(std::max<std::int64_t>(width, 0)))) return {};
  std::string s = self.text();
  const auto n = std::max<std::int64_t>(width - static_cast<std::int64_t>(uni::length(s)), 0);
  s.insert(!s.empty() && (s[0] == '+' || s[0] == '-') ? 1 : 0, static_cast<std::size_t>(n), '0');
  return rt.text(std::move(s), self.markup());
}

value expandtabs(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "expandtabs", args, {"tabsize"});
  const std::int64_t size = a.integer(0, 8);
  if (!a.ok() || !rt.scan(self.text().size())) return {};
  std::string out;
  std::int64_t column = 0;
  for (char c : self.text()) {
    if (c == '\t') {
      const std::int64_t n = size > 0 ? size - column % size : 0;
      if (!rt.may_hold(out.size() + static_cast<std::uint64_t>(n))) return {};
      out.append(static_cast<std::size_t>(n), ' ');
      column += n;
    } else {
      out += c;
      if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) ++column;
      if (c == '\n' || c == '\r') column = 0;
    }
  }
  return rt.text(std::move(out), self.markup());
}

value removed(runtime& rt, const value& self, const call_args& args, bool prefix) {
  bound_args a(rt, prefix ? "removeprefix" : "removesuffix", args, {""}, 1);
  const std::string what = a.string(0, "");
  std::string_view s = self.text();
  if (!a.ok() || !rt.scan(s.size())) return {};
  if (what.size() > s.size()) return self;
  if (prefix && s.substr(0, what.size()) == what) return rt.text(s.substr(what.size()), self);
  if (!prefix && s.substr(s.size() - what.size()) == what) return rt.text(s.substr(0, s.size() - what.size()), self);
  return self;
}

value replaced(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "replace", args, {"", "", ""}, 2);
  const std::string from = a.string(0, ""), to = a.string(1, "");
  const std::int64_t most = a.integer(2, -1);
  return a.ok() ? replace(rt, self, from, to, most) : value();
}

value is_title(runtime& rt, const value& self, const call_args& args) {
  bool in_word = false, any = false;
  const value good = all_characters(rt, self, args, "istitle", false, [&](char32_t c, bool) {
    const bool starts = uni::is_upper(c) || uni::is_title(c), cased = starts || uni::is_lower(c);
    const bool ok = !cased || starts != in_word;
    in_word = cased;
    any |= cased;
    return ok;
  });
  return value::boolean(good.as_bool() && any);
}

/// islower and isupper: at least one cased character, and none of the other case.
value has_case(runtime& rt, const value& self, const call_args& args, bool upper) {
  bool any = false;
  const value good = all_characters(rt, self, args, upper ? "isupper" : "islower", false, [&](char32_t c, bool) {
    const bool wanted = upper ? uni::is_upper(c) : uni::is_lower(c);
    any |= wanted;
    return wanted || !(uni::is_upper(c) || uni::is_lower(c) || uni::is_title(c));
  });
  return value::boolean(good.as_bool() && any);
}

value splitlines(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "splitlines", args, {"keepends"});
  if (!a.ok() || !rt.scan(self.text().size() * 8) || !rt.spend(self.text().size() * 4)) return {};
  return pieces(rt, self, split_lines(self.text(), a.flag(0, false)));
}

value format_map(runtime& rt, const value& self, const call_args& args) {
  bound_args a(rt, "format_map", args, {""}, 1);
  if (!a.ok()) return {};
  call_args named;
  if (!a[0].is(kind::dict)) return rt.error("format_map() wants a dict");
  for (const auto& [k, v] : a[0].as<dict_object>().items) {
    if (k.is_string() && rt.step()) named.named.emplace_back(k.text(), v);
  }
  return format_braces(rt, self, named);
}

using args_t = const call_args&;
#define TROUPE_METHOD(body) [](runtime& rt, const value& self, args_t args) -> value { return body; }
#define TROUPE_ALL(name, when_empty, test)                                                           \
  {name, TROUPE_METHOD(all_characters(rt, self, args, name, when_empty, [](char32_t c, bool first) { \
     (void)first;                                                                                    \
     return test;                                                                                    \
   }))}

const method_entry methods[] = {
    {"strip", TROUPE_METHOD(stripped(rt, self, args, "strip", true, true))},
    {"lstrip", TROUPE_METHOD(stripped(rt, self, args, "lstrip", true, false))},
    {"rstrip", TROUPE_METHOD(stripped(rt, self, args, "rstrip", false, true))},
    {"split", TROUPE_METHOD(split(rt, self, args, false))},
    {"rsplit", TROUPE_METHOD(split(rt, self, args, true))},
    {"splitlines", splitlines},
    {"startswith", TROUPE_METHOD(starts_or_ends(rt, self, args, true))},
    {"endswith", TROUPE_METHOD(starts_or_ends(rt, self, args, false))},
    {"replace", replaced},
    {"join", join},
    {"upper", TROUPE_METHOD(simple(rt, self, args, "upper", uni::upper))},
    {"lower", TROUPE_METHOD(simple(rt, self, args, "lower", uni::lower))},
    {"title", TROUPE_METHOD(simple(rt, self, args, "title", uni::title))},
    {"capitalize", TROUPE_METHOD(simple(rt, self, args, "capitalize", uni::capitalize))},
    {"swapcase", TROUPE_METHOD(simple(rt, self, args, "swapcase", uni::swapcase))},
    {"casefold", TROUPE_METHOD(simple(rt, self, args, "casefold", uni::casefold))},
    {"find", TROUPE_METHOD(find(rt, self, args, "find", false, false))},
    {"rfind", TROUPE_METHOD(find(rt, self, args, "rfind", true, false))},
    {"index", TROUPE_METHOD(find(rt, self, args, "index", false, true))},
    {"rindex", TROUPE_METHOD(find(rt, self, args, "rindex", true, true))},
    {"count", count},
    {"partition", TROUPE_METHOD(partition(rt, self, args, false))},
    {"rpartition", TROUPE_METHOD(partition(rt, self, args, true))},
    {"removeprefix", TROUPE_METHOD(removed(rt, self, args, true))},
    {"removesuffix", TROUPE_METHOD(removed(rt, self, args, false))},
    {"ljust", TROUPE_METHOD(padded(rt, self, args, '<'))},
    {"rjust", TROUPE_METHOD(padded(rt, self, args, '>'))},
    {"center", TROUPE_METHOD(padded(rt, self, args, '^'))},
    {"zfill", zfill},
    {"expandtabs", expandtabs},
    {"format", format_braces},
    {"format_map", format_map},
    {"islower", TROUPE_METHOD(has_case(rt, self, args, false))},
    {"isupper", TROUPE_METHOD(has_case(rt, self, args, true))},
    {"istitle", is_title},
    TROUPE_ALL("isdigit", false, uni::is_digit(c)),
    TROUPE_ALL("isdecimal", false, uni::is_decimal(c)),
    TROUPE_ALL("isnumeric", false, uni::is_numeric(c)),
    TROUPE_ALL("isalpha", false, uni::is_alpha(c)),
    TROUPE_ALL("isalnum", false, uni::is_alpha(c) || uni::is_numeric(c)),
    TROUPE_ALL("isspace", false, uni::is_space(c)),
    TROUPE_ALL("isascii", true, c < 0x80),
    TROUPE_ALL("isprintable", true, uni::is_printable(c)),
    TROUPE_ALL("isidentifier", false, first ? uni::is_identifier_start(c) : uni::is_identifier_part(c)),
};

}  // namespace

const method_entry* find_text_method(std::string_view name) { return find_entry(methods, name); }

}  // namespace troupe::text::jinja
