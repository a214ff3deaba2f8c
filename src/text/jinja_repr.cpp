#include "src/text/jinja_repr.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "src/text/jinja_ast.hpp"
#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_loop.hpp"
#include "src/text/jinja_unicode.hpp"

namespace troupe::text::jinja {

std::string real_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific).ptr;
  std::string_view s(buffer, static_cast<std::size_t>(end - buffer));
  std::string out;
  if (s.front() == '-') {
    out = "-";
    s.remove_prefix(1);
  }
  const std::size_t e = s.find('e');
  std::string digits(1, s[0]);
  if (e > 2) digits += s.substr(2, e - 2);
  int exponent = 0;
  std::string_view power = s.substr(e + 1);
  if (power.front() == '+') power.remove_prefix(1);
  std::from_chars(power.data(), power.data() + power.size(), exponent);
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1)
    return out + digits + std::string(static_cast<std::size_t>(exponent + 1 - count), '0') + ".0";
  return out + digits.substr(0, static_cast<std::size_t>(exponent + 1)) + "." +
         digits.substr(static_cast<std::size_t>(exponent + 1));
}

void append_text_repr(std::string& out, std::string_view s) {
  const bool single = s.find('\'') != std::string_view::npos;
  const char quote = single && s.find('"') == std::string_view::npos ? '"' : '\'';
  out += quote;
  for (std::size_t at = 0; at < s.size();) {
    const std::size_t start = at;
    const char32_t c = uni::decode(s, at);
    if (c == static_cast<unsigned char>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (uni::is_printable(c)) {
      out += s.substr(start, at - start);
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<unsigned>(c));
    }
  }
  out += quote;
}

namespace {

class repr_writer {
 public:
  repr_writer(runtime& rt, std::string& out) : rt_(rt), out_(out) {}

  void write(const value& v) {
    if (!rt_.step() || !rt_.may_hold(out_.size())) return;
    runtime::level level(rt_);
    if (!rt_.ok()) return;
    switch (v.type()) {
      case kind::string:
        if (!rt_.scan(v.text().size())) return;
        if (v.markup()) out_ += "Markup(";
        append_text_repr(out_, v.text());
        if (v.markup()) out_ += ')';
        return;
      case kind::undefined:
        out_ += "Undefined";
        return;
      case kind::none:
        out_ += "None";
        return;
      case kind::boolean:
        out_ += v.as_bool() ? "True" : "False";
        return;
      case kind::integer:
        out_ += std::to_string(v.as_integer());
        return;
      case kind::big_integer:
        out_ += v.text();
        return;
      case kind::real:
        out_ += real_repr(v.as_real());
        return;
      case kind::list:
        write_items('[', v.items(), ']');
        return;
      case kind::tuple:
        write_items('(', v.items(), v.items().size() == 1 ? ',' : '\0'), out_ += ')';
        return;
      case kind::dict:
        write_dict(v.as<dict_object>());
        return;
      case kind::view:
        write_view(v);
        return;
      case kind::range:
        write_range(v.as<range_object>());
        return;
      case kind::space:
        out_ += "<Namespace ";
        write_dict(v.as<space_object>().attributes);
        out_ += '>';
        return;
      case kind::macro:
        out_ += fmt::format("<Macro {}>", macro_name(v));
        return;
      case kind::function:
        out_ += fmt::format("<function {}>", v.as<function_object>().entry->name);
        return;
      case kind::method:
        out_ += fmt::format("<built-in method {} of {} object>", v.as<method_object>().entry->name,
                            type_name(v.as<method_object>().self));
        return;
      case kind::loop: {
        const std::int64_t n = v.mut<loop_object>().length(rt_);
        out_ += fmt::format("<LoopContext {}/{}>", v.as<loop_object>().index0 + 1, n);
        return;
      }
      case kind::generator:
      case kind::cycler:
      case kind::joiner:
        out_ += fmt::format("<{} object>", type_name(v));
        return;
    }
  }

 private:
  static std::string macro_name(const value& v) {
    const std::string& name = v.as<macro_object>().node->name;
    if (name.empty()) return "anonymous";
    std::string out;
    append_text_repr(out, name);
    return out;
  }

  void write_items(char open, const std::vector<value>& items, char close) {
    out_ += open;
    for (std::size_t i = 0; i < items.size() && rt_.ok(); ++i) {
      if (i) out_ += ", ";
      write(items[i]);
    }
    if (close) out_ += close;
  }

  void write_pair(const std::pair<value, value>& kv, std::string_view between) {
    write(kv.first);
    out_ += between;
    write(kv.second);
  }

  void write_dict(const dict_object& d) {
    out_ += '{';
    for (std::size_t i = 0; i < d.items.size() && rt_.ok(); ++i) {
      if (i) out_ += ", ";
      write_pair(d.items[i], ": ");
    }
    out_ += '}';
  }

  void write_view(const value& v) {
    const auto& view = v.as<view_object>();
    const pairs& items = view.dict.as<dict_object>().items;
    out_ += fmt::format("{}([", type_name(v));
    for (std::size_t i = 0; i < items.size() && rt_.ok(); ++i) {
      if (i) out_ += ", ";
      if (view.what == view_kind::items) {
        out_ += '(';
        write_pair(items[i], ", ");
        out_ += ')';
      } else {
        write(view.what == view_kind::keys ? items[i].first : items[i].second);
      }
    }
    out_ += "])";
  }

  void write_range(const range_object& r) {
    out_ += fmt::format("range({}, {}", r.start, r.stop);
    if (r.step != 1) out_ += fmt::format(", {}", r.step);
    out_ += ')';
  }

  runtime& rt_;
  std::string& out_;
};

}  // namespace

void append_text(runtime& rt, std::string& out, const value& v) {
  if (v.is_string()) {
    if (rt.scan(v.text().size()) && rt.may_hold(out.size() + v.text().size())) out += v.text();
  } else if (!v.is_undefined()) {
    repr_writer(rt, out).write(v);
    rt.may_hold(out.size());
  }
}

std::string to_text(runtime& rt, const value& v) {
  std::string out;
  append_text(rt, out, v);
  return out;
}

std::string to_repr(runtime& rt, const value& v) {
  std::string out;
  repr_writer(rt, out).write(v);
  return out;
}

}  // namespace troupe::text::jinja
