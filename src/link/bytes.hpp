#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

/// Values as bytes, for messages between machines of one byte order (little-endian x86-64; the hello checks it).
namespace troupe::link {

class byte_writer {
 public:
  template <class T>
  requires(std::is_arithmetic_v<T> || std::is_enum_v<T>) byte_writer& put(T value) {
    const auto* at = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), at, at + sizeof value);
    return *this;
  }
  byte_writer& put(bool value) { return put(static_cast<std::uint8_t>(value)); }
  /// A length in 32 bits and the bytes.
  byte_writer& put(std::span<const std::byte> bytes) {
    put(static_cast<std::uint32_t>(bytes.size()));
    return raw(bytes);
  }
  byte_writer& put(std::string_view text) { return put(std::as_bytes(std::span(text.data(), text.size()))); }
  byte_writer& raw(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  std::span<const std::byte> bytes() const { return bytes_; }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Reads what byte_writer wrote. After the first value that is not there whole, everything reads as zero or empty and
/// `good` is false, so that a message is checked once, at its end.
class byte_reader {
 public:
  explicit byte_reader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <class T>
  requires(std::is_arithmetic_v<T> || std::is_enum_v<T>) T take() {
    T value{};
    const auto bytes = raw(sizeof value);
    if (bytes.size() == sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  bool take_bool() {
    const auto value = take<std::uint8_t>();
    if (value > 1) fail();
    return value == 1;
  }
  std::span<const std::byte> raw(std::size_t n) {
    if (!good_ || n > rest_.size()) {
      fail();
      return {};
    }
    const auto out = rest_.first(n);
    rest_ = rest_.subspan(n);
    return out;
  }
  std::span<const std::byte> take_bytes(std::size_t limit) {
    const auto n = take<std::uint32_t>();
    if (n > limit) fail();
    return raw(n);
  }
  std::string take_text(std::size_t limit) {
    const auto bytes = take_bytes(limit);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  /// How many records follow, each of at least `record_bytes`, so that no count asks for more memory than came.
  std::uint32_t take_count(std::size_t record_bytes) {
    const auto n = take<std::uint32_t>();
    if (n > rest_.size() / record_bytes) fail();
    return good_ ? n : 0;
  }
  void fail() {
    good_ = false;
    rest_ = {};
  }
  bool good() const { return good_; }
  bool at_end() const { return good_ && rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
  bool good_ = true;
};

}  // namespace troupe::link
