#include "tools/npy.hpp"

#include <cerrno>
#include <cstring>

#include <troupe/error.hpp>

namespace troupe::cli {

npy_writer::npy_writer(const std::string& path, std::uint64_t rows, std::uint64_t columns)
    : path_(path), file_(std::fopen(path.c_str(), "wb")) {
  if (!file_) throw error(errc::io_failed, path + ": cannot be written: " + std::strerror(errno));
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows) + ", " +
                       std::to_string(columns) + "), }";
  constexpr std::size_t preamble = 10;  // magic, version, length
  header.append(63 - (preamble + header.size()) % 64, ' ');
  header += '\n';
  const auto n = static_cast<std::uint16_t>(header.size());
  const char start[preamble] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, static_cast<char>(n & 255), static_cast<char>(n >> 8)};
  std::fwrite(start, 1, preamble, file_);
  std::fwrite(header.data(), 1, header.size(), file_);
}

npy_writer::~npy_writer() {
  if (file_) std::fclose(file_);
}

void npy_writer::write(std::span<const float> values) { std::fwrite(values.data(), sizeof(float), values.size(), file_); }

void npy_writer::close() {
  const bool failed = std::ferror(file_) | std::fclose(file_);
  file_ = nullptr;
  if (failed) throw error(errc::io_failed, path_ + ": writing failed: is the disk full?");
}

}  // namespace troupe::cli
