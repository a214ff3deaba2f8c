#pragma once
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>

namespace troupe::cli {

/// Writes a float32 matrix row by row as .npy, format version 1.0 (numpy's lib/format documentation).
/// Throws troupe::error when the file cannot be written.
class npy_writer {
 public:
  npy_writer(const std::string& path, std::uint64_t rows, std::uint64_t columns);
  ~npy_writer();
  void write(std::span<const float> values);
  /// Flushes; call it before relying on the file.
  void close();

 private:
  std::string path_;
  std::FILE* file_;
};

}  // namespace troupe::cli
