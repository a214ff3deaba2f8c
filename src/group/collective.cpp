#include "src/group/collective.hpp"

#include <algorithm>
#include <cstring>

namespace troupe::group {
namespace {

/// A slice of a row-major matrix, read as one row after the other.
struct columns_of {
  float* base;
  std::size_t ld;
  slice part;

  /// Calls f(where in the matrix, how many floats) for the runs of elements [begin, begin + count).
  template <class F>
  void runs(std::uint64_t begin, std::uint64_t count, F&& f) const {
    while (count > 0) {
      const std::uint64_t row = begin / part.count, column = begin % part.count;
      const std::uint64_t n = std::min<std::uint64_t>(count, part.count - column);
      f(base + row * ld + part.begin + column, n);
      begin += n;
      count -= n;
    }
  }
};

}  // namespace

result<void> collective::columns(float* base, std::size_t ld, std::uint32_t n_rows, std::span<const slice> slices,
                                 readers who) {
  if (slices.size() != place_.size)
    return failure(errc::invalid_argument,
                   std::to_string(slices.size()) + " slices for " + std::to_string(place_.size) + " ranks");
  if (place_.size == 1) return {};
  std::uint64_t most = 0;
  for (const slice& s : slices) {
    if (s.end() > ld) return failure(errc::invalid_argument, "a slice ends beyond its row");
    most = std::max<std::uint64_t>(most, std::uint64_t{n_rows} * s.count);
  }
  const std::uint64_t step = capacity_ / sizeof(float);
  for (std::uint64_t at = 0; at < most; at += step) {
    const auto length = [&](std::uint32_t rank) {
      const std::uint64_t all = std::uint64_t{n_rows} * slices[rank].count;
      return all > at ? std::min(all - at, step) : 0;
    };
    auto* to = own_block();
    columns_of{base, ld, slices[place_.rank]}.runs(at, length(place_.rank), [&](const float* x, std::uint64_t n) {
      std::memcpy(to, x, n * sizeof(float));
      to += n * sizeof(float);
    });
    for (std::uint32_t r = 0; r < place_.size; ++r) bytes_[r] = length(r) * sizeof(float);
    if (auto ok = swap(bytes_, who); !ok) return ok;
    if (who == readers::root && place_.rank != 0) continue;
    for (std::uint32_t r = 0; r < place_.size; ++r) {
      if (r == place_.rank) continue;
      const auto* from = block(r);
      columns_of{base, ld, slices[r]}.runs(at, length(r), [&](float* x, std::uint64_t n) {
        std::memcpy(x, from, n * sizeof(float));
        from += n * sizeof(float);
      });
    }
  }
  return {};
}

result<void> collective::share_columns(float* base, std::size_t ld, std::uint32_t n_rows,
                                       std::span<const slice> slices) {
  return columns(base, ld, n_rows, slices, readers::all);
}

result<void> collective::gather_columns(float* base, std::size_t ld, std::uint32_t n_rows,
                                        std::span<const slice> slices) {
  return columns(base, ld, n_rows, slices, readers::root);
}

result<void> collective::share_blocks(std::span<std::byte> blocks) {
  if (place_.size == 1) return {};
  if (blocks.size() % place_.size != 0)
    return failure(errc::invalid_argument, std::to_string(blocks.size()) + " bytes are no equal blocks of " +
                                               std::to_string(place_.size) + " ranks");
  const std::size_t size = blocks.size() / place_.size;
  for (std::size_t at = 0; at < size; at += capacity_) {
    const std::size_t n = std::min<std::size_t>(size - at, capacity_);
    std::fill(bytes_.begin(), bytes_.end(), n);
    std::memcpy(own_block(), blocks.data() + place_.rank * size + at, n);
    if (auto ok = swap(bytes_, readers::all); !ok) return ok;
    for (std::uint32_t r = 0; r < place_.size; ++r)
      if (r != place_.rank) std::memcpy(blocks.data() + r * size + at, block(r), n);
  }
  return {};
}

result<void> collective::broadcast(std::span<std::byte> data) {
  if (place_.size == 1) return {};
  std::fill(bytes_.begin(), bytes_.end(), 0);
  for (std::uint64_t at = 0; at < data.size(); at += capacity_) {
    const auto part = data.subspan(at, std::min<std::uint64_t>(data.size() - at, capacity_));
    bytes_[0] = part.size();
    if (place_.rank == 0) std::memcpy(own_block(), part.data(), part.size());
    if (auto ok = swap(bytes_, readers::all); !ok) return ok;
    if (place_.rank != 0) std::memcpy(part.data(), block(0), part.size());
  }
  return {};
}

result<void> collective::barrier() {
  if (place_.size == 1) return {};
  std::fill(bytes_.begin(), bytes_.end(), 0);
  return swap(bytes_, readers::all);
}

}  // namespace troupe::group
