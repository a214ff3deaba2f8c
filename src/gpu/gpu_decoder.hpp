#pragma once
#include <cstdint>
#include <memory>
#include <optional>

#include "kernels/gpu/attention.hpp"
#include "kernels/gpu/dense.hpp"
#include "kernels/gpu/experts.hpp"
#include "kernels/gpu/gemv.hpp"
#include "kernels/gpu/gemv_experts.hpp"
#include "kernels/gpu/group.hpp"
#include "src/gpu/communicator.hpp"
#include "src/gpu/device_weights.hpp"
#include "src/gpu/gpu_options.hpp"
#include "src/gpu/products.hpp"
#include "src/gpu/step_layout.hpp"
#include "src/model/backend.hpp"

/// The forward pass of a decoder on one card: enqueues kernels, knows nothing of plans or sequences.
namespace troupe::gpu {

class gpu_decoder {
 public:
  /// Offsets of everything but the weights in the rank's one piece of memory.
  struct space {
    std::uint64_t h, normed, qkv, attended, gate_up, activated, squares, rope, frequencies, logits, page_table,
        attention_scratch, kv, kv_scales, dequantized, workspace, constants, parts, exchanged, router, routes,
        expert_out;
  };
  static space lay_out(layout&, const model::model_config&, const model::rank_shape&, const gpu_options&,
                       const model::shard&, const device_weights&, std::uint32_t n_sms);
  /// Bytes of one KV page over all layers, scales included.
  static std::uint64_t page_bytes(const model::model_config&, kernels::gpu::kv_type);

  /// `group` is null for a rank that has the whole model.
  static result<std::unique_ptr<gpu_decoder>> make(std::shared_ptr<const model::model> local,
                                                   std::shared_ptr<communicator> group, const model::rank_shape&,
                                                   const gpu_options&, device_weights, const space&, std::byte* base,
                                                   std::uint32_t n_sms);

  /// Tokens through all layers: keys and values are written, the hidden states of the outputs (step_layout::gather) are
  /// normed and kept. `inputs`: the step's inputs on the device, as the layout says. Rows beyond the true sizes hold
  /// nothing.
  result<void> forward(const bucket&, const step_layout&, std::byte* inputs, const std::int32_t* last_token,
                       cudaStream_t);
  /// Logits of outputs [first, first + n) of the last forward pass, for *count of them: [n][vocab] f32.
  result<void> head(std::uint32_t first, std::uint32_t n, const std::uint32_t* count, cudaStream_t);
  /// Chooses the products' kernels for decode steps of this size by timing; overwrites what a step computes and waits.
  result<void> tune(const bucket&, cudaStream_t);
  /// Logits rows [0, n) of the buffer.
  float* logits() const { return logits_; }
  std::uint32_t* page_table() const { return page_table_; }
  std::uint32_t table_pages() const { return table_pages_; }
  /// Pages copied in every layer, one after the other.
  result<void> copy_page(std::uint32_t from, std::uint32_t to, cudaStream_t);

  kernels::gpu::attention_shape attention_shape(const bucket&) const;
  /// logits_chunk, on the device.
  const std::uint32_t* chunk_count() const { return constants_; }

  static constexpr std::uint32_t logits_chunk = 32;

 private:
  gpu_decoder(std::shared_ptr<const model::model>, std::shared_ptr<communicator>, const model::rank_shape&,
              const gpu_options&, device_weights, products, const space&, std::byte* base, std::uint32_t n_sms);
  bucket largest_bucket() const;
  static kernels::gpu::gate_activation gate_of(model::activation);
  kernels::gpu::kv_pool kv_of(std::uint32_t layer) const;
  float* part_of_sum(std::uint32_t n_tokens) const;
  product residual(const void* x, std::uint32_t n_tokens) const;
  /// Whether the cards sum steps of this size themselves; the same on all ranks.
  bool exchanges(std::uint32_t n_tokens) const;
  /// The step's sums over the ranks, in order: the embedding, then two for each layer.
  std::uint32_t sums_per_step() const { return 2 * c_.n_layers + 1; }
  kernels::gpu::exchange_call exchange(std::uint32_t sum, std::byte* inputs) const;
  kernels::gpu::rms_norm_args norm_args(const float* bias, const float* weight) const;
  void add_up(checked&, std::uint32_t n_tokens, cudaStream_t);
  void norm(checked&, const float* bias, const float* weight, const bucket&, const std::uint32_t* n_tokens,
            cudaStream_t);
  void begin(checked&, const bucket&, const step_layout&, std::byte* inputs, const std::int32_t* last_token,
             cudaStream_t);
  /// What stands between a product that belongs to the residual stream and the next: the sum over the ranks, a bias,
  /// and the norm by `weight`, none after the last product.
  void between(checked&, std::uint32_t sum, const float* bias, const float* weight, const bucket&, std::byte* inputs,
               cudaStream_t);
  void between_halves(checked&, std::uint32_t layer, const bucket&, std::byte* inputs, cudaStream_t);
  void between_layers(checked&, std::uint32_t layer, const bucket&, std::byte* inputs, cudaStream_t);
  /// A layer, from the normed stream to the normed stream.
  void layer(checked&, std::uint32_t layer, const bucket&, const step_layout&, std::byte* inputs, cudaStream_t);
  void project(checked&, std::uint32_t layer, const bucket&, const step_layout&, std::byte* inputs, cudaStream_t);
  void gate(checked&, std::uint32_t layer, const bucket&, const std::uint32_t* n_tokens, cudaStream_t);
  /// From the normed stream to what is added to the stream, or this rank's part of it.
  void feed_forward(checked&, std::uint32_t layer, const bucket&, const std::uint32_t* n_tokens, cudaStream_t);
  void experts(checked&, std::uint32_t layer, const bucket&, const std::uint32_t* n_tokens, cudaStream_t);
  /// Whether a step of so many tokens takes the kernels of gemv_experts.hpp: the first half of every chosen expert's
  /// MLP, then the second.
  bool experts_by_gemv(std::uint32_t n_tokens) const;
  void gate_experts_by_gemv(checked&, std::uint32_t layer, const kernels::gpu::rms_scale&,
                            const std::uint32_t* n_tokens, cudaStream_t);
  void combine_experts_by_gemv(checked&, std::uint32_t layer, const std::uint32_t* n_tokens, cudaStream_t);
  kernels::gpu::expert_gemv_args down_of_experts(std::uint32_t layer) const;
  kernels::gpu::rope_store_args rope_args(std::uint32_t layer, const step_layout&, std::byte* inputs) const;
  void attention(checked&, std::uint32_t layer, const bucket&, const step_layout&, std::byte* inputs, cudaStream_t);
  /// The products of a layer of one token that take over what stands between products (gemv.hpp); the others are as
  /// in any step.
  struct one_token_plan {
    std::optional<kernels::gpu::gemv_depth> qkv, o, gate_up, down;
    bool experts = false;  ///< what gate_up says of a dense MLP
    bool any() const { return qkv || o || gate_up || down || experts; }
  };
  one_token_plan plan_one_token(const bucket&);
  std::optional<kernels::gpu::gemv_depth> residual_depth(const linear&, const void* x);
  std::optional<kernels::gpu::gemv_depth> depth_in_group(std::uint32_t rows, kernels::gpu::gemv_depth most) const;
  void one_token_layer(checked&, std::uint32_t layer, const one_token_plan&, const bucket&, const step_layout&,
                       std::byte* inputs, cudaStream_t);
  void one_token_feed_forward(checked&, std::uint32_t layer, const one_token_plan&, const bucket&, std::byte* inputs,
                              cudaStream_t);
  kernels::gpu::gemv_residual_args residual_args(const linear&, const void* x, const float* next_norm,
                                                 std::uint32_t sum, std::byte* inputs) const;
  /// Of what a residual product left in normed_ and squares_.
  kernels::gpu::rms_scale half_norm() const { return {squares_, c_.hidden / 4, c_.rms_eps}; }

  std::shared_ptr<const model::model> model_;
  std::shared_ptr<communicator> group_;
  kernels::gpu::vocab_parts vocab_parts_{};
  const model::model_config& c_;
  model::rank_shape shape_;
  gpu_options options_;
  device_weights weights_;
  products products_;
  std::uint32_t n_sms_, table_pages_;
  bool fuses_one_token_ = false;  ///< products of a step of one token may take over what stands between them
  float *h_, *squares_, *rope_, *logits_, *parts_, *exchanged_;
  std::byte *normed_, *qkv_, *attended_, *gate_up_, *activated_;
  // With experts a step's tokens have n_experts_used rows each in gate_up_, activated_ and expert_out_.
  float* router_;
  std::byte* expert_out_;
  kernels::gpu::expert_routes routes_{};
  double* frequencies_;
  std::uint32_t* page_table_;
  std::uint32_t* constants_;
  std::byte* attention_scratch_;
  std::byte* kv_;     // [layer][k, v][page]
  float* kv_scales_;  // the same
};

}  // namespace troupe::gpu
