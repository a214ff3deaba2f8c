#pragma once
#include <cstdint>

namespace troupe {

/// Hands out offsets of one piece of memory to be, each at a multiple of Alignment: what is planned is what is taken.
template <std::uint64_t Alignment>
class memory_layout {
 public:
  std::uint64_t add_bytes(std::uint64_t n) {
    const std::uint64_t at = bytes_;
    bytes_ = (bytes_ + n + Alignment - 1) / Alignment * Alignment;
    return at;
  }
  template <class T>
  std::uint64_t add(std::uint64_t count) {
    return add_bytes(count * sizeof(T));
  }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::uint64_t bytes_ = 0;
};

}  // namespace troupe
