#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "src/base/result.hpp"
#include "src/format/tensor_view.hpp"

namespace troupe::format {

/// A regular file, mapped read-only. Move-only; moving keeps the addresses. A file that somebody shortens while it is
/// mapped faults on access (SIGBUS), as with any mapping: replace model files by renaming, never by writing into them.
class mapped_file {
 public:
  /// Fails with `not_found` if there is no such file, `invalid_argument` if it is not a regular file, `io_failed`
  /// otherwise.
  static result<mapped_file> open(const std::filesystem::path&);

  mapped_file() = default;
  ~mapped_file();
  mapped_file(mapped_file&&) noexcept;
  mapped_file& operator=(mapped_file&&) noexcept;

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  const std::string& path() const noexcept { return path_; }

  /// True if the range lies within this mapping.
  bool contains(std::span<const std::byte> range) const noexcept;
  /// Advises the kernel about the pages of `range` (dont_need: only pages wholly inside it); ignored if it lies
  /// elsewhere.
  void advise(std::span<const std::byte> range, access) const noexcept;

 private:
  void reset() noexcept;

  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::string path_;
};

}  // namespace troupe::format
