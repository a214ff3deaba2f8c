#include "src/wire/json_text.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

namespace troupe::wire {
namespace {

// 1: copied as it is. 0: escaped, or the start of a longer UTF-8 sequence.
constexpr std::array<std::uint8_t, 256> plain = [] {
  std::array<std::uint8_t, 256> t{};
  for (int c = 0x20; c < 0x80; ++c) t[static_cast<std::size_t>(c)] = c != '"' && c != '\\' && c != 0x7f;
  return t;
}();

struct sequence {
  std::size_t length;  // bytes that belong together
  bool valid;
};

// Well-formed sequences are those of Unicode's table 3-7. An ill-formed one is as long as its longest valid beginning.
sequence utf8_at(const unsigned char* p, std::size_t left) {
  const unsigned char lead = p[0];
  std::size_t more = 0;
  unsigned char low = 0x80, high = 0xbf;
  if (lead >= 0xc2 && lead <= 0xdf) more = 1;
  else if (lead >= 0xe0 && lead <= 0xef) more = 2, low = lead == 0xe0 ? 0xa0 : 0x80, high = lead == 0xed ? 0x9f : 0xbf;
  else if (lead >= 0xf0 && lead <= 0xf4) more = 3, low = lead == 0xf0 ? 0x90 : 0x80, high = lead == 0xf4 ? 0x8f : 0xbf;
  else return {1, false};
  for (std::size_t i = 1; i <= more; ++i) {
    if (i >= left || p[i] < low || p[i] > high) return {i, false};
    low = 0x80, high = 0xbf;
  }
  return {more + 1, true};
}

void append_control(std::string& out, unsigned char c) {
  switch (c) {
    case '"': out += "\\\""; return;
    case '\\': out += "\\\\"; return;
    case '\n': out += "\\n"; return;
    case '\r': out += "\\r"; return;
    case '\t': out += "\\t"; return;
    case '\b': out += "\\b"; return;
    case '\f': out += "\\f"; return;
    default: break;
  }
  constexpr char hex[] = "0123456789abcdef";
  out += "\\u00";
  out += hex[c >> 4];
  out += hex[c & 15];
}

}  // namespace

void append_escaped(std::string& out, std::string_view text) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const std::size_t n = text.size();
  std::size_t from = 0, at = 0;
  const auto flush = [&] { out.append(text.data() + from, at - from); };
  while (at < n) {
    if (plain[p[at]]) {
      ++at;
      continue;
    }
    if (p[at] < 0x80) {
      flush();
      append_control(out, p[at]);
      from = ++at;
      continue;
    }
    const auto [length, valid] = utf8_at(p + at, n - at);
    if (!valid) {
      flush();
      out += "\xef\xbf\xbd";
      from = at + length;
    }
    at += length;
  }
  flush();
}

void append_string(std::string& out, std::string_view text) {
  out += '"';
  append_escaped(out, text);
  out += '"';
}

}  // namespace troupe::wire
