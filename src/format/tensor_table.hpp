#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/format/tensor_view.hpp"

namespace troupe::format {

/// Tensors in order and by name: what the readers keep.
class tensor_table {
 public:
  /// False, and nothing changes, if the name is taken.
  bool add(const tensor_view& tensor) {
    if (!index_.emplace(tensor.name, static_cast<std::uint32_t>(tensors_.size())).second) return false;
    tensors_.push_back(tensor);
    return true;
  }
  std::span<const tensor_view> all() const noexcept { return tensors_; }
  const tensor_view* find(std::string_view name) const noexcept {
    const auto it = index_.find(name);
    return it == index_.end() ? nullptr : &tensors_[it->second];
  }

 private:
  std::vector<tensor_view> tensors_;
  std::unordered_map<std::string_view, std::uint32_t> index_;
};

}  // namespace troupe::format
