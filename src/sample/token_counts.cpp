#include "src/sample/token_counts.hpp"

#include <algorithm>
#include <bit>
#include <new>

namespace troupe::sample {
namespace {

std::uint32_t table_size(std::uint32_t capacity) { return std::bit_ceil(std::max(capacity, 4u) * 2u); }

}  // namespace

// calloc: untouched zero pages from the system instead of memory that is filled now.
token_counts::token_counts(std::uint32_t capacity)
    : entries_(static_cast<entry*>(std::calloc(std::size_t{capacity} + 1, sizeof(entry)))),
      index_(static_cast<std::uint32_t*>(std::calloc(table_size(capacity), sizeof(std::uint32_t)))),
      capacity_(capacity) {
  if (!entries_ || !index_) throw std::bad_alloc();
}

std::uint64_t token_counts::bytes(std::uint32_t capacity) {
  return (std::uint64_t{capacity} + 1) * sizeof(entry) + std::uint64_t{table_size(capacity)} * sizeof(std::uint32_t);
}

void token_counts::clear() {
  if (size_ != 0) std::fill_n(index_.get(), table_size(capacity_), 0u);
  size_ = 0;
}

token_counts::entry& token_counts::slot(token_id token) {
  const std::uint32_t mask = table_size(capacity_) - 1;
  std::uint32_t at = static_cast<std::uint32_t>(token) * 0x9E3779B1u & mask;
  while (index_[at] != 0) {
    entry& e = entries_[index_[at] - 1];
    if (e.token == token) return e;
    at = (at + 1) & mask;
  }
  // Beyond the capacity, which a caller sizes to the sequence, the spare last entry takes what comes.
  if (size_ == capacity_) return entries_[capacity_] = {token, 0, 0};
  index_[at] = ++size_;
  return entries_[size_ - 1] = {token, 0, 0};
}

}  // namespace troupe::sample
