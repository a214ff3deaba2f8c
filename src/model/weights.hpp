#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "src/base/result.hpp"
#include "src/format/tensor_view.hpp"
#include "src/model/architecture.hpp"
#include "src/model/config.hpp"

namespace troupe::model {

/// The tensors of a model by role. Shapes agree with the config and every type can be dequantized; views of F8 have
/// their scale, and only linear layers are F8. The views point into `source()`, which the table keeps alive. Cheap to
/// move; read from any thread.
class weight_table {
 public:
  /// Null: the model has no such tensor (no bias, a tied head).
  const format::tensor_view* find(tensor_role role, std::uint32_t layer = 0) const noexcept {
    const std::size_t row = per_layer(role) ? std::size_t{layer} + 1 : 0;
    return views_[row * n_tensor_roles + static_cast<std::size_t>(role)];
  }
  /// A matrix of an expert (per_expert), of a model that has some.
  const format::tensor_view& expert(tensor_role role, std::uint32_t layer, std::uint32_t e) const noexcept {
    return *experts_[expert_place(role, layer, e)];
  }
  /// The matrix that makes logits: the head, or the embedding where they are tied.
  const format::tensor_view& head() const noexcept {
    const format::tensor_view* h = find(tensor_role::head);
    return h ? *h : *find(tensor_role::embedding);
  }
  const format::tensor_source& source() const noexcept { return *source_; }
  std::uint64_t bytes() const noexcept { return bytes_; }  ///< of all tensors found

  /// Finds every tensor that the family's table names. In safetensors the config says which biases exist, in a GGUF
  /// those in the file are taken. Errors: invalid_file (missing, wrong shape), unsupported (type, or how F8 is scaled).
  static result<weight_table> resolve(std::shared_ptr<const format::tensor_source>, const family&, file_form,
                                      const model_config&);

  using view_change = std::function<result<format::tensor_view>(tensor_role, const format::tensor_view&)>;
  /// A table of changed views onto the same source. The head is a view of its own, also where it was the embedding.
  result<weight_table> mapped(const view_change&) const;

 private:
  std::size_t expert_place(tensor_role role, std::uint32_t layer, std::uint32_t e) const noexcept {
    const auto which = static_cast<std::size_t>(role) - n_tensor_roles;
    return (std::size_t{layer} * n_expert_roles + which) * n_experts_ + e;
  }

  std::shared_ptr<const format::tensor_source> source_;
  std::shared_ptr<const std::vector<format::tensor_view>>
      own_;                                          // F8, an expert of many, or of a mapped table; else the source's
  std::vector<const format::tensor_view*> views_;    // [1 + n_layers][role]
  std::vector<const format::tensor_view*> experts_;  // [n_layers][role][n_experts_]
  std::size_t n_experts_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace troupe::model
