#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/base/ids.hpp"

/// What a decoder model is, in numbers. Every value has been checked against the limits below before a model_config
/// leaves this module, so that sizes computed from it cannot overflow.
namespace troupe::model {

namespace limits {
inline constexpr std::uint32_t layers = 1024;
inline constexpr std::uint32_t hidden = 1u << 17;
inline constexpr std::uint32_t heads = 4096;
inline constexpr std::uint32_t head_dim = 256;
inline constexpr std::uint32_t ffn = 1u << 20;
inline constexpr std::uint32_t experts = 1024;
inline constexpr std::uint32_t vocab = 1u << 22;
inline constexpr std::uint32_t context = 1u << 24;
}  // namespace limits

/// Which elements of a head form a rotated pair.
enum class rope_form : std::uint8_t {
  half,         ///< (x[i], x[i + d/2])
  interleaved,  ///< (x[2i], x[2i+1])
};
enum class rope_scaling : std::uint8_t { none, linear, llama3, yarn };

/// Rotary embedding: angle = position * inverse frequency; cos and sin are multiplied by `attention_factor`.
struct rope_config {
  rope_form form = rope_form::half;
  rope_scaling scaling = rope_scaling::none;
  std::uint32_t dim = 0;  ///< leading elements of a head that are rotated; the rest pass
  double theta = 10000.0;
  double factor = 1.0;
  double original_context = 0.0;                       ///< llama3, yarn
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  ///< llama3
  double beta_fast = 32.0, beta_slow = 1.0;              ///< yarn
  bool truncate = true;                                  ///< yarn: round the correction range to whole dimensions
  double attention_factor = 1.0;
};

/// Inverse frequencies [dim / 2] in double, with the scaling applied. `divisors`: the file's rope_freqs tensor
/// (GGUF's form of llama3 scaling), empty or of dim / 2 elements.
/// Formulas: transformers, modeling_rope_utils (linear, llama3, yarn).
std::vector<double> inverse_frequencies(const rope_config&, std::span<const float> divisors);

enum class activation : std::uint8_t { silu, gelu_tanh, gelu_erf };

struct model_config {
  std::string name;          ///< as the file calls it; may be empty
  std::string architecture;  ///< GGUF arch or safetensors model_type
  std::uint32_t n_layers = 0;
  std::uint32_t hidden = 0;
  std::uint32_t n_heads = 0;
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;  ///< of queries, keys and values; n_heads * head_dim may differ from hidden
  std::uint32_t ffn = 0;  ///< of an expert where there are some
  std::uint32_t n_experts = 0, n_experts_used = 0;  ///< 0: the MLP is dense; used: those of a token
  bool experts_renormalized = true;  ///< the weights of a token's experts add up to 1
  std::uint32_t vocab = 0;
  std::uint32_t context = 0;  ///< tokens that the model was made for
  std::uint32_t window = 0;   ///< sliding window of every layer, 0: none
  float rms_eps = 1e-5f;
  activation act = activation::silu;
  rope_config rope;
  bool attention_bias = false;  ///< on q, k, v and o
  bool mlp_bias = false;        ///< on gate, up and down
  bool tied_embedding = false;  ///< the head is the embedding
  std::vector<token_id> eos;    ///< ids that end a text, as the model's files say (may be empty)

  std::uint32_t q_size() const { return n_heads * head_dim; }
  std::uint32_t kv_size() const { return n_kv_heads * head_dim; }
};

}  // namespace troupe::model
