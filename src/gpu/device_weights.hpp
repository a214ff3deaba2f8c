#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/quant.hpp"
#include "src/gpu/device.hpp"
#include "src/gpu/gpu_options.hpp"
#include "src/model/open_model.hpp"

/// A model's weights on one card.
namespace troupe::gpu {

/// Some rows of a linear layer, stored one way.
struct linear_part {
  std::uint32_t first_row = 0, rows = 0;
  kernels::gpu::packed_weight packed{};  ///< form none: `dense` holds them in the compute type
  const void* dense = nullptr;
  std::uint64_t stride = 0;  ///< bytes from one expert's to the next
};

/// y = x W^T. Matrices that read the same activations and are stored alike are one product (q, k, v; gate, up); where a
/// file stores them differently there is a part for each. Experts have one each of every part, stored alike.
struct linear {
  std::uint32_t rows = 0, cols = 0;
  std::vector<linear_part> parts;  ///< of experts: of the first
  bool packed() const { return parts.front().packed.form != kernels::gpu::packed_form::none; }
  bool plain() const { return parts.size() == 1 && !packed(); }  ///< one matrix in the compute type
};

struct layer_weights {
  const float* attention_norm = nullptr;
  const float* ffn_norm = nullptr;
  const float* q_norm = nullptr;  ///< [head_dim] of every query head, null: none
  const float* k_norm = nullptr;
  linear qkv, o, gate_up, down;     ///< with experts, gate_up and down are theirs
  linear router;                    ///< no rows: the MLP is dense
  const float* qkv_bias = nullptr;  ///< q | k | v; null: none
  const float* o_bias = nullptr;
  const float* gate_bias = nullptr;
  const float* up_bias = nullptr;
  const float* down_bias = nullptr;
};

/// A matrix or vector on its way to the card.
struct upload {
  enum class kind : std::uint8_t { vector_f32, dense, packed_as_is, packed_e4m3, quantize, raw_rows };
  kind how;
  const format::tensor_view* source;
  std::uint64_t offset;                 ///< in the weights' memory
  std::uint32_t first_row;              ///< packed: where its rows start in the whole matrix
  kernels::gpu::packed_weight whole{};  ///< packed: the whole matrix
  model::slice cols{};                  ///< of the source, the matrix's columns; count 0: all
};

class device_weights {
 public:
  /// Lays out what a rank holds: `local` is the model of its shard (model::sharing::sums), or the whole with the whole
  /// shard. Nothing is taken yet. Errors: unsupported.
  static result<device_weights> plan(std::shared_ptr<const model::model> local, const model::shard&,
                                     const gpu_options&);
  /// Uploads into `bytes()` of device memory at base.
  result<void> load(std::byte* base);

  std::uint64_t bytes() const { return layout_.bytes(); }
  std::uint64_t scratch_bytes() const { return scratch_; }  ///< of the largest packed matrix in the compute type

  std::vector<layer_weights> layers;
  const float* output_norm = nullptr;
  linear head;
  kernels::gpu::embedding_table embedding{};

 private:
  using tensors = std::span<const format::tensor_view* const>;
  linear add_linear(std::initializer_list<const format::tensor_view*>, const model::slice& cols = {},
                    bool quantized = true);
  linear add_experts(std::initializer_list<model::tensor_role>, std::uint32_t layer, const model::slice& cols = {});
  linear add_matrices(std::span<const tensors>, const model::slice& cols, bool quantized);
  void add_uploads(tensors, const linear_part&, std::uint64_t at, const model::slice& cols);
  const float* add_vector(const format::tensor_view*);
  const float* add_vectors(std::initializer_list<const format::tensor_view*>,
                           std::initializer_list<std::uint32_t> sizes);
  void add_embedding(const format::tensor_view&, std::uint32_t first_row);
  void rebase(std::byte* base);

  std::shared_ptr<const model::model> model_;
  gpu_options options_;
  layout layout_;
  std::vector<upload> uploads_;
  std::uint64_t scratch_ = 0;
};

/// Reads, converts and copies on several threads through small pinned rings.
result<void> upload_all(std::span<const upload>, kernels::dtype compute, std::byte* base, int device);

/// The shard of a rank on a GPU. Errors: unsupported.
result<model::shard> shard_of(const model::model& whole, const model::group_place&);

/// What a model is computed in if nobody says: f16 where its weights are f16, else bf16.
kernels::dtype natural_compute_type(const model::model&);

}  // namespace troupe::gpu
