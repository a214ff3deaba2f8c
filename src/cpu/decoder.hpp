#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cpu/attention.hpp"
#include "kernels/cpu/matmul.hpp"
#include "kernels/cpu/vector.hpp"
#include "src/cpu/attention_plan.hpp"
#include "src/cpu/expert_routing.hpp"
#include "src/cpu/forward.hpp"
#include "src/cpu/packed_weights.hpp"
#include "src/cpu/rank_part.hpp"
#include "src/cpu/region.hpp"

/// The fast forward pass. All threads walk through the layers together and meet at barriers, five per layer when few
/// tokens run: with few tokens every thread makes the normed and quantized activations for itself, because that costs
/// less than waiting for somebody else's; with many, rows are shared out.
///
/// Every output element is computed by one thread in an order that depends on weights and positions only, so neither
/// threads nor batches nor chunks change a bit. Nor do ranks: a rank of a group computes its heads' attention and its
/// columns of o, of the MLP and of down for all tokens, and after each of the four the ranks exchange columns, n_tokens *
/// (q_size + 2 hidden + ffn) floats a layer; what every rank then has whole (the stream, norms) it computes for itself.
namespace troupe::cpu {

class decoder final : public forward {
 public:
  static result<std::unique_ptr<forward>> make(rank_part, const model::rank_shape&, const cpu_options&, thread_pool&);
  static result<memory_plan> plan(const rank_part&, const model::rank_shape&, const cpu_options&,
                                  std::uint32_t threads);

  result<void> run(const step_batch&) override;
  result<void> logits(std::uint32_t first, std::uint32_t n, float* out) override;
  void fork(page_id from, page_id to) override;

 private:
  /// Rows that one thread or all threads work on.
  struct rows {
    float* h;                                     ///< [n][hidden], the residual stream
    float* a;                                     ///< [n][hidden], normed
    kernels::cpu::activation_group* groups;       ///< quantized rows, of whatever width
    float* rope;                                  ///< [n][2 * rotary]
  };
  struct offsets {
    std::uint64_t h, a, groups, rope, b, qkv, att, gate, up, router, expert_rows, partials, own, total;
    std::uint64_t own_h, own_a, own_groups, own_rope, own_attention, own_bytes;
    std::uint64_t n_partials;
  };
  static offsets lay_out(const rank_part&, const model::rank_shape&, std::uint32_t threads);

  decoder(rank_part, const model::rank_shape&, const cpu_options&, thread_pool&, packed_weights, region kv,
          region scratch);

  static constexpr std::uint32_t row_chunk = kernels::cpu::row_block;
  /// Tiles that a thread takes at a time: enough for a few turns each.
  static std::uint32_t tile_chunk(std::uint32_t tiles, std::uint32_t threads) {
    return std::max(1u, tiles / (threads * 4));
  }

  rows rows_of(const team&, bool few) const;
  void walk(team&);
  void embed(team&, const rows&, std::uint32_t n);
  void norm(team&, const rows&, std::uint32_t n, bool few, const float* delta, const float* bias, const float* weight,
            bool groups);
  void quantize(team&, const rows&, std::uint32_t n, bool few, const float* x, std::uint32_t cols, bool wanted);
  void multiply(team&, std::span<const linear* const> parts, float* const* y, std::size_t ld, const float* x,
                std::size_t ld_x, const rows&, std::uint32_t n);
  void product(const linear&, std::uint32_t first_tile, std::uint32_t last_tile, const kernels::cpu::activations&,
               std::uint32_t n, float* y, std::size_t ld) const;
  void rotate_and_store(std::uint32_t layer, const rows&, std::uint32_t token, std::uint32_t kv_head) const;
  void attention(team&, std::uint32_t layer, const rows&, bool narrow);
  bool feed_forward(team&, const layer_weights&, const rows&, std::uint32_t n, bool few);
  bool experts(team&, const layer_weights&, const rows&, std::uint32_t n);
  void quantize_expert_rows(const float* x, std::uint32_t cols, std::uint32_t begin, std::uint32_t end);
  template <class Use>
  void expert_tiles(team&, std::uint32_t tiles, Use&&);
  bool meet(team&, float* x, const shared_columns&, std::uint32_t n);
  kernels::cpu::attention_tile tile_of(const attention_task&, std::uint32_t layer) const;
  kernels::cpu::kv_layer kv_of(std::uint32_t layer) const;
  std::byte* attention_scratch(const team& t) const { return own(t) + at_.own_attention; }
  std::byte* own(const team& t) const { return scratch_.data() + at_.own + t.index() * at_.own_bytes; }

  rank_part part_;
  const model::model_config& c_;  ///< of the rank's part: its heads, its columns of the MLP
  const kernels::cpu::vector_kernels& vector_;
  const kernels::cpu::matmul_kernels& matmul_;
  const kernels::cpu::attention_kernels& attention_;
  kernels::cpu::kv_type kv_type_;
  thread_pool& pool_;
  packed_weights weights_;
  region kv_, scratch_;
  std::uint64_t page_bytes_;
  offsets at_;
  std::vector<double> frequencies_;
  float *b_, *qkv_, *att_, *gate_, *up_;
  // With experts a step's tokens have n_experts_used rows each in gate_, up_ and expert_rows_, those of an expert side by
  // side.
  float *router_, *expert_rows_;
  expert_routing routing_;
  attention_plan plan_;
  step_batch batch_;
  std::optional<failure> failed_;  ///< of the group, for good; written by thread 0 between two barriers
};

}  // namespace troupe::cpu
