#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "src/base/result.hpp"

namespace troupe::cpu {

/// Zeroed anonymous memory, aligned to 2 MiB and asked to lie on huge pages; touched pages count, others do not.
/// Move-only, moving keeps the address.
class region {
 public:
  /// `what` is for the message. Errors: out_of_memory.
  static result<region> take(std::uint64_t bytes, const char* what);

  region() = default;
  ~region();
  region(region&& other) noexcept { swap(other); }
  region& operator=(region&& other) noexcept {
    swap(other);
    return *this;
  }

  std::byte* data() const { return data_; }
  std::uint64_t size() const { return size_; }
  template <class T>
  T* at(std::uint64_t offset) const {
    return reinterpret_cast<T*>(data_ + offset);
  }

 private:
  void swap(region& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
};

/// Hands out offsets of one region to be: what is planned is what is taken.
class layout {
 public:
  template <class T>
  std::uint64_t add(std::uint64_t count) {
    const std::uint64_t at = bytes_;
    bytes_ = (bytes_ + count * sizeof(T) + 63) / 64 * 64;
    return at;
  }
  std::uint64_t bytes() const { return bytes_; }

 private:
  std::uint64_t bytes_ = 0;
};

}  // namespace troupe::cpu
