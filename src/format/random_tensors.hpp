#pragma once
#include <memory>
#include <string>
#include <vector>

#include "src/base/result.hpp"
#include "src/format/tensor_table.hpp"
#include "src/format/tensor_view.hpp"

namespace troupe::format {

/// A tensor that no file holds.
struct made_tensor {
  std::string name;
  tensor_shape shape;
  bool ones = false;  ///< all elements 1 (a norm's weights), else random ones
};

/// Tensors of made-up values, to measure a model's speed without its weights: uniform with mean 0 and standard
/// deviation `random_deviation`, always the same ones for a name. They take address space but hardly any memory: all
/// are windows onto one pool of at most `pool_bytes`, mapped again and again, from a page that the name decides. So
/// the values of a tensor larger than the pool repeat.
class random_tensors final : public tensor_source {
 public:
  static constexpr std::size_t pool_bytes = std::size_t{64} << 20;
  /// transformers' initializer_range: with normalized inputs the products of usual models stay within some units.
  static constexpr float random_deviation = 0.02f;

  /// `type` is f32, f16 or bf16. Errors: invalid_argument (another type, a name twice), out_of_memory (address space).
  static result<std::shared_ptr<const random_tensors>> make(std::vector<made_tensor>, dtype type, std::string origin);
  ~random_tensors() override;
  random_tensors(const random_tensors&) = delete;
  random_tensors& operator=(const random_tensors&) = delete;

  std::span<const tensor_view> tensors() const noexcept override { return table_.all(); }
  const tensor_view* find(std::string_view name) const noexcept override { return table_.find(name); }
  const std::string& origin() const noexcept override { return origin_; }

 private:
  random_tensors() = default;

  std::string origin_;
  std::vector<made_tensor> made_;  // owns the names
  std::vector<std::byte> ones_;    // as long as the longest tensor of ones
  std::byte* base_ = nullptr;      // of all windows, one behind the other
  std::size_t bytes_ = 0;
  tensor_table table_;
};

}  // namespace troupe::format
