#pragma once
#include "kernels/gpu/launch.hpp"
#include "kernels/gpu/step_inputs.hpp"

/// The operators between the matrix products. n = *n_tokens <= max_tokens everywhere; the grid is sized for max_tokens.
namespace troupe::kernels::gpu {

/// A row-major matrix of an embedding as it lies on the device.
struct embedding_table {
  const void* data;
  dtype type;  ///< f32, f16, bf16, or a GGUF type of common/blocks.hpp whose rows are as in the file (dequantized row
               ///< by row)
  std::uint64_t row_bytes;
  std::uint32_t vocab, hidden;
  std::uint32_t first_row = 0;  ///< the id of row 0; tokens outside [first_row, first_row + vocab) give zeros
};

/// h[t] = scale * table[token t]; literal ids, or last_token[slot] for last_token_of(slot). Ids are checked by the
/// host.
cudaError_t embed(const embedding_table&, const input_token* tokens, const std::int32_t* last_token, float scale,
                  float* h, const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t);

/// h += bias (null: none), then out = h / sqrt(mean(h^2) + eps) * (weight + weight_offset), rounded once to `type`.
/// h [n, hidden] f32 residual, weight and bias [hidden] f32. hidden a multiple of 4, up to 2^17.
/// weight_offset 1: Gemma. gather (null: identity): row t of out comes from row gather[t] of h, and bias is not stored
/// back.
struct rms_norm_args {
  float* h;
  const float* bias;
  const float* weight;
  float weight_offset, eps;
  void* out;
  dtype type;
  std::uint32_t hidden;
  const std::uint32_t* gather;
};
cudaError_t rms_norm(const rms_norm_args&, const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t);
/// The same with mean subtraction: (h - mean) / sqrt(var + eps) * weight + shift (shift null: none).
cudaError_t layer_norm(const rms_norm_args&, const float* shift, const std::uint32_t* n_tokens,
                       std::uint32_t max_tokens, cudaStream_t);

/// table[t][2i], [2i+1] = cos, sin of position[t] * frequency[i], times factor; i < dim / 2. In double, rounded once.
/// positions [n], frequencies [dim / 2] f64.
cudaError_t rope_table(const std::uint32_t* positions, const double* frequencies, std::uint32_t dim, double factor,
                       float* table, const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t);

enum class kv_type : std::uint8_t { f32, f16, bf16, e4m3 };
constexpr std::uint32_t kv_element_bytes(kv_type t) { return t == kv_type::f32 ? 4 : t == kv_type::e4m3 ? 1 : 2; }

/// The KV cache of one layer: [page][kv_head][page_tokens][head_dim] for keys and for values, and with e4m3 a scale per
/// position and head, [page][kv_head][page_tokens] f32: x = scale * code, scale = amax / 448 (1 where amax is 0).
struct kv_pool {
  void* k;
  void* v;
  float* k_scale;
  float* v_scale;
  kv_type type;
  std::uint32_t n_kv_heads, head_dim;
};

/// qkv [n, (n_heads + 2 * n_kv_heads) * head_dim] of `type`, rows queries | keys | values. Adds the bias (f32, one per
/// column, null: none), rotates the first rope_dim elements of each query and key head (pairs (i, i + rope_dim/2), or
/// (2i, 2i+1) if interleaved), writes the queries back in place and keys and values into the pages of their positions.
/// Arithmetic in f32 from the stored `type`, rounded once. Where q_norm and k_norm [head_dim] are given, heads are
/// RMS-normed before rotation (eps).
struct rope_store_args {
  void* qkv;
  dtype type;
  const float* bias;
  const float* q_norm;
  const float* k_norm;
  float eps;
  const float* rope;  ///< as rope_table leaves it
  std::uint32_t rope_dim;
  bool interleaved;
  std::uint32_t n_heads;
  kv_pool kv;
  const std::uint32_t* positions;   ///< [n]
  const std::uint32_t* slots;       ///< [n] slot of each token
  const std::uint32_t* page_table;  ///< [max_slots][table_pages]
  std::uint32_t table_pages;
};
cudaError_t rope_and_store(const rope_store_args&, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                           cudaStream_t);

enum class gate_activation : std::uint8_t { silu, gelu_tanh, gelu_erf };
/// out[t][i] = act(gate) * up with gate = gate_up[t][i] (+ gate_bias[i]), up = gate_up[t][ffn + i] (+ up_bias[i]).
/// gate_up [n, 2 * ffn], out [n, ffn], both of `type`; biases f32 or null. ffn a multiple of 8.
cudaError_t gated_activation(gate_activation, const void* gate_up, const float* gate_bias, const float* up_bias,
                             void* out, dtype type, std::uint32_t ffn, const std::uint32_t* n_tokens,
                             std::uint32_t max_tokens, cudaStream_t);

/// Random weights on the device: normal with this deviation, from a counter (seed, element index); any `type` of f32,
/// f16, bf16.
cudaError_t fill_normal(void* out, dtype type, std::uint64_t n, float deviation, std::uint64_t seed, cudaStream_t);

}  // namespace troupe::kernels::gpu
