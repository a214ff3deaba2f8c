#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "src/base/memory_layout.hpp"
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

/// Of a region to be, in cache lines.
using layout = memory_layout<64>;

}  // namespace troupe::cpu
