#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/common/dtype.hpp"

namespace troupe::format {

using kernels::dtype;

/// How the pages of a mapped range will be used.
enum class access {
  normal,
  sequential,  ///< read once from front to back
  random,
  will_need,  ///< start reading now
  dont_need,  ///< drop the pages; a later access reads the file again
};

/// Dimensions in row-major order, outermost first: a matrix is [out, in], whatever file it came from. Rank 0 is a
/// scalar.
class tensor_shape {
 public:
  static constexpr std::size_t max_rank = 8;

  constexpr tensor_shape() = default;
  /// At most max_rank dimensions; more are cut off.
  constexpr tensor_shape(std::initializer_list<std::uint64_t> dims) {
    for (std::uint64_t d : dims) push_back(d);
  }
  constexpr bool push_back(std::uint64_t dim) noexcept {
    if (rank_ == max_rank) return false;
    dims_[rank_++] = dim;
    return true;
  }
  constexpr std::size_t size() const noexcept { return rank_; }
  constexpr std::uint64_t operator[](std::size_t i) const noexcept { return dims_[i]; }
  constexpr const std::uint64_t* begin() const noexcept { return dims_.data(); }
  constexpr const std::uint64_t* end() const noexcept { return dims_.data() + rank_; }
  /// The innermost dimension; 1 for a scalar.
  constexpr std::uint64_t row() const noexcept { return rank_ == 0 ? 1 : dims_[rank_ - 1]; }
  /// The product. Does not overflow for a shape that came out of a reader.
  constexpr std::uint64_t elements() const noexcept {
    std::uint64_t n = 1;
    for (std::uint64_t d : *this) n *= d;
    return n;
  }
  friend constexpr bool operator==(const tensor_shape& a, const tensor_shape& b) noexcept {
    if (a.rank_ != b.rank_) return false;
    for (std::size_t i = 0; i < a.rank_; ++i) {
      if (a.dims_[i] != b.dims_[i]) return false;
    }
    return true;
  }

 private:
  std::array<std::uint64_t, max_rank> dims_{};
  std::uint32_t rank_ = 0;
};

/// "[576, 1536]"
std::string to_string(const tensor_shape&);

/// A stored tensor: name and data belong to the source and live as long as it does. The data has any alignment (memcpy
/// or packed blocks, never a cast to float*), lies in row-major order, and is exactly bytes_of(type, shape.elements())
/// long.
struct tensor_view {
  std::string_view name;
  dtype type = dtype::f32;
  tensor_shape shape;
  std::span<const std::byte> data;
  float scale = 1.0f;  ///< F8: what its numbers are multiplied with. Sources leave it at 1, model::weight_table sets it
};

/// Named tensors, from whatever file. Immutable after it was made, so safe to read from any thread.
class tensor_source {
 public:
  virtual ~tensor_source() = default;

  /// All tensors, in the order of the file.
  virtual std::span<const tensor_view> tensors() const noexcept = 0;
  /// The tensor of this name, or null. The pointer is valid until the source is moved from or destroyed.
  virtual const tensor_view* find(std::string_view name) const noexcept = 0;
  /// A hint about a tensor's pages; nothing happens where they are not a mapped file.
  virtual void advise(const tensor_view&, access) const noexcept {}
  /// What to call the source in messages: a path, usually.
  virtual const std::string& origin() const noexcept = 0;

  std::vector<std::string_view> names() const {
    std::vector<std::string_view> out;
    out.reserve(tensors().size());
    for (const tensor_view& t : tensors()) out.push_back(t.name);
    return out;
  }

 protected:
  tensor_source() = default;
  tensor_source(const tensor_source&) = default;
  tensor_source(tensor_source&&) = default;
  tensor_source& operator=(const tensor_source&) = default;
  tensor_source& operator=(tensor_source&&) = default;
};

}  // namespace troupe::format
