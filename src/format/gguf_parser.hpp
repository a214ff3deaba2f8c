#pragma once
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "src/format/gguf.hpp"

namespace troupe::format {

/// Bytes of one element of a metadata value; 0 for strings and arrays.
std::size_t size_of(gguf_type) noexcept;

/// One pass over the bytes of one GGUF file, front to back.
class gguf_parser {
 public:
  gguf_parser(std::span<const std::byte> bytes, std::string origin);
  result<gguf_file> run();

 private:
  std::size_t left() const noexcept { return bytes_.size() - at_; }
  /// False if fewer bytes are left; then nothing is read.
  template <class T>
  bool read(T& out) noexcept {
    if (left() < sizeof(T)) return false;
    std::memcpy(&out, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return true;
  }
  bool read_string(std::string_view& out) noexcept;

  result<void> header();
  result<void> metadata();
  result<void> value(gguf_entry&);
  result<void> tensor_infos();
  result<void> one_tensor(tensor_view&, std::uint64_t& offset);
  result<void> place_tensors();

  failure bad(const std::string& what) const;
  failure ends_early(const std::string& where) const;

  struct pending {
    tensor_view tensor;
    std::uint64_t offset;
    std::uint64_t bytes;
  };

  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
  std::uint64_t n_entries_ = 0;
  std::uint64_t n_tensors_ = 0;
  std::vector<pending> pending_;
  gguf_file file_;
};

}  // namespace troupe::format
