#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "src/format/gguf.hpp"

namespace troupe::test {

inline std::filesystem::path fixture(std::string_view name) {
  return std::filesystem::path(TROUPE_TEST_DATA) / "format" / name;
}

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// A copy in memory of exactly this size, so that the address sanitizer sees any access beyond it.
class exact_copy {
 public:
  explicit exact_copy(std::string_view text) : size_(text.size()), data_(new std::byte[text.size()]) {
    if (size_ != 0) std::memcpy(data_.get(), text.data(), size_);
  }
  operator std::span<const std::byte>() const { return {data_.get(), size_}; }

 private:
  std::size_t size_;
  std::unique_ptr<std::byte[]> data_;
};

template <class T>
T load(std::span<const std::byte> bytes, std::size_t index = 0) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

/// A folder that is gone when the test ends.
class scratch_folder {
 public:
  scratch_folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "troupe-test-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~scratch_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(std::string_view name, std::string_view content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

/// Writes bytes as they come: for files that no honest writer makes.
class writer {
 public:
  template <class T>
  writer& put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  writer& raw(std::string_view text) {
    text_ += text;
    return *this;
  }
  writer& string(std::string_view text) { return put<std::uint64_t>(text.size()).raw(text); }
  writer& pad(std::size_t to) {
    while (text_.size() % to != 0) text_ += '\0';
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

/// A GGUF put together by hand, counts included.
struct gguf_bytes {
  struct tensor {
    std::string name;
    std::vector<std::uint64_t> ne;  // innermost first
    std::uint32_t type = 0;
    std::uint64_t offset = 0;
  };
  std::uint32_t version = 3;
  std::vector<std::string> entries;  // key, type and value
  std::vector<tensor> tensors;
  std::string data;
  std::size_t alignment = 32;

  template <class T>
  gguf_bytes& scalar(std::string_view key, format::gguf_type type, T value) {
    entries.push_back(writer().string(key).put(static_cast<std::uint32_t>(type)).put(value).text());
    return *this;
  }
  gguf_bytes& value(std::string_view key, format::gguf_type type, std::string_view raw) {
    entries.push_back(writer().string(key).put(static_cast<std::uint32_t>(type)).raw(raw).text());
    return *this;
  }
  std::string text() const {
    writer w;
    w.raw("GGUF").put(version).put<std::uint64_t>(tensors.size()).put<std::uint64_t>(entries.size());
    for (const std::string& e : entries) w.raw(e);
    for (const tensor& t : tensors) {
      w.string(t.name).put(static_cast<std::uint32_t>(t.ne.size()));
      for (std::uint64_t n : t.ne) w.put(n);
      w.put(t.type).put(t.offset);
    }
    if (!data.empty()) w.pad(alignment).raw(data);
    return w.text();
  }
};

/// The message of a failure, or "" for a success.
template <class T>
std::string message(const result<T>& r) {
  return r.ok() ? std::string() : r.error().message;
}

inline bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

}  // namespace troupe::test
