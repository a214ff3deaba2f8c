#include "src/text/byte_alphabet.hpp"

#include <array>
#include <cstdint>

namespace troupe::text {
namespace {

// All characters of the alphabet are below U+0144, so one table of code points serves to read it.
constexpr std::size_t n_code_points = 0x144;

struct tables {
  std::array<std::uint16_t, 256> to_code_point{};
  std::array<std::int16_t, n_code_points> to_byte{};
};

constexpr tables make_tables() {
  tables t;
  for (auto& b : t.to_byte) b = -1;
  std::uint16_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const auto code = printable ? static_cast<std::uint16_t>(byte) : next++;
    t.to_code_point[byte] = code;
    t.to_byte[code] = static_cast<std::int16_t>(byte);
  }
  return t;
}

constexpr tables table = make_tables();

}  // namespace

bool append_alphabet_bytes(std::string_view written, std::string& out) {
  const std::size_t before = out.size();
  out.resize(before + written.size());  // every character is at least as long as the byte that it stands for
  char* to = out.data() + before;
  const char* from = written.data();
  const char* const end = from + written.size();
  while (from != end) {
    unsigned code = static_cast<unsigned char>(*from++);
    if (code >= 0x80) {
      // Two-byte characters only: nothing longer is in the alphabet.
      const bool two = code >= 0xC2 && code <= 0xC5 && from != end && (*from & 0xC0) == 0x80;
      code = two ? (code & 0x1F) << 6 | (static_cast<unsigned char>(*from++) & 0x3F) : n_code_points;
    }
    if (code >= n_code_points || table.to_byte[code] < 0) {
      out.resize(before);
      return false;
    }
    *to++ = static_cast<char>(table.to_byte[code]);
  }
  out.resize(static_cast<std::size_t>(to - out.data()));
  return true;
}

void append_alphabet_text(std::string_view bytes, std::string& out) {
  for (const char c : bytes) {
    const unsigned code = table.to_code_point[static_cast<unsigned char>(c)];
    if (code < 0x80) {
      out.push_back(static_cast<char>(code));
    } else {
      out.push_back(static_cast<char>(0xC0 | code >> 6));
      out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
    }
  }
}

}  // namespace troupe::text
