#pragma once
#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "src/format/gguf.hpp"
#include "src/text/tokenizer.hpp"
#include "src/text/vocabulary_gguf.hpp"

namespace fixture {

inline const std::filesystem::path folder = std::filesystem::path(TROUPE_TEST_DATA) / "text" / "tokenizer";

/// The tokenizer of a GGUF file; throws what went wrong.
inline std::shared_ptr<const troupe::text::tokenizer> open_tokenizer(const std::filesystem::path& path) {
  auto file = troupe::format::gguf_file::open(path);
  auto vocab = troupe::text::read_vocabulary(file.value());
  return troupe::text::tokenizer::make(vocab.value()).value();
}
inline std::shared_ptr<const troupe::text::tokenizer> open_tokenizer(const std::string& name) {
  return open_tokenizer(folder / (name + ".gguf"));
}

inline std::vector<boost::json::object> read_lines(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::vector<boost::json::object> out;
  for (std::string line; std::getline(in, line);) out.push_back(boost::json::parse(line).as_object());
  return out;
}

inline std::string text(const boost::json::value& v) { return {v.as_string().data(), v.as_string().size()}; }
inline std::vector<troupe::token_id> ids(const boost::json::value& v) {
  return boost::json::value_to<std::vector<troupe::token_id>>(v);
}

/// Text with characters from all over Unicode and the runs that pre-tokenizers care about.
inline std::string random_text(std::mt19937& r) {
  static constexpr char32_t ranges[][2] = {
      {0x20, 0x7E},     {0x61, 0x7A},     {0x30, 0x39},     {0, 0x1F},           {0x80, 0x2FF},     {0x300, 0x36F},
      {0x400, 0x4FF},   {0x600, 0x6FF},   {0x900, 0x97F},   {0x2000, 0x206F},    {0x2581, 0x2581},  {0x3000, 0x30FF},
      {0x4E00, 0x4FFF}, {0xAC00, 0xACFF}, {0xE000, 0xFFFF}, {0x10000, 0x10FFFF}, {0x1F300, 0x1F64F}};
  const auto pick = [&r](std::uint32_t n) { return static_cast<std::uint32_t>(r() % n); };
  std::string out;
  for (std::uint32_t runs = pick(12); runs-- > 0;) {
    const auto& [low, high] = ranges[pick(std::size(ranges))];
    for (std::uint32_t n = 1 + pick(6); n-- > 0;) {
      char32_t c = low + pick(high - low + 1);
      if (c >= 0xD800 && c <= 0xDFFF) c = 0xFFFD;
      if (c < 0x80)
        out += static_cast<char>(c);
      else if (c < 0x800)
        out += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
      else if (c < 0x10000)
        out += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
                static_cast<char>(0x80 | (c & 0x3F))};
      else
        out += {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3F)),
                static_cast<char>(0x80 | (c >> 6 & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
    }
    if (pick(3) == 0) out.append(1 + pick(4), " \n\t\r"[pick(4)]);
  }
  return out;
}

}  // namespace fixture
