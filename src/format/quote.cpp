#include "src/format/quote.hpp"

namespace troupe::format {

std::string quoted(std::string_view text) {
  constexpr std::size_t limit = 64;
  constexpr char digits[] = "0123456789abcdef";
  std::string out = "'";
  for (char c : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out += c;
    } else {
      out += "\\x";
      out += digits[byte >> 4];
      out += digits[byte & 15];
    }
  }
  if (text.size() > limit) out += "...";
  out += '\'';
  return out;
}

}  // namespace troupe::format
