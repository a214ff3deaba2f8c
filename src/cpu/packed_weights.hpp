#pragma once
#include <cstdint>
#include <vector>

#include "kernels/cpu/matmul.hpp"
#include "src/base/result.hpp"
#include "src/cpu/region.hpp"
#include "src/cpu/thread_pool.hpp"
#include "src/model/open_model.hpp"

namespace troupe::cpu {

/// A linear layer: y = scale * (x W^T) + bias.
struct linear {
  kernels::cpu::packed_matrix matrix{};
  const float* bias = nullptr;  ///< null: none
  float scale = 1;  ///< of F8: its numbers are held in BF16, which is exact and would not be with their scale

  std::uint32_t tiles() const { return kernels::cpu::n_tiles(matrix.rows); }
  bool wants_groups() const { return kernels::cpu::wants_groups(matrix.type); }
};

struct expert_weights {
  linear gate, up, down;
};

struct layer_weights {
  const float* attention_norm;
  const float* ffn_norm;
  const float *q_norm, *k_norm;  ///< [head_dim]; null: heads are not normed
  linear q, k, v, o;
  linear gate, up, down;                ///< of a dense MLP
  linear router;                        ///< of one with experts
  std::vector<expert_weights> experts;  ///< likewise; empty: dense
};

/// A model's weights as the kernels want them: matrices packed into tiles, vectors in f32, all in one region.
class packed_weights {
 public:
  /// Bytes that `make` takes. Errors: unsupported (a matrix whose shape or type the kernels do not take).
  static result<std::uint64_t> bytes(const model::model&);
  /// Packs on all threads of the pool.
  static result<packed_weights> make(const model::model&, thread_pool&);

  std::vector<layer_weights> layers;
  const float* output_norm = nullptr;
  linear head;

 private:
  region memory_;
};

}  // namespace troupe::cpu
