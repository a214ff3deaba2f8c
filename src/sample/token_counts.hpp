#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

#include "src/base/ids.hpp"

namespace troupe::sample {

/// How often each token occurred in one sequence: what the penalties need. An open-addressed table over a list in order
/// of first occurrence. Memory for `capacity` different tokens is reserved at construction and touched when used.
class token_counts {
 public:
  struct entry {
    token_id token;
    std::uint32_t outputs;    ///< times generated
    std::uint32_t in_prompt;  ///< 0 or 1
  };

  /// Throws std::bad_alloc.
  explicit token_counts(std::uint32_t capacity);

  void clear();
  void add_prompt(token_id token) { slot(token).in_prompt = 1; }
  void add_output(token_id token) { ++slot(token).outputs; }
  std::span<const entry> entries() const { return {entries_.get(), size_}; }

  /// Bytes that a table of this capacity takes.
  static std::uint64_t bytes(std::uint32_t capacity);

 private:
  struct release {
    void operator()(void* p) const { std::free(p); }
  };
  entry& slot(token_id token);

  std::unique_ptr<entry[], release> entries_;
  std::unique_ptr<std::uint32_t[], release> index_;  // 1 + position in entries_, 0: free
  std::uint32_t capacity_;
  std::uint32_t size_ = 0;
};

}  // namespace troupe::sample
