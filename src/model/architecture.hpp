#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "src/model/config.hpp"

/// Families of decoders as data: which tensors a layer has, how files call them, and the few facts that no file states.
/// A new family is a new table; code that walks the tables does not branch on names.
namespace troupe::model {

enum class tensor_role : std::uint8_t {
  // once per model
  embedding,
  output_norm,
  head,
  rope_divisors,
  // once per layer
  attention_norm,
  q,
  k,
  v,
  o,
  q_bias,
  k_bias,
  v_bias,
  o_bias,
  q_norm,
  k_norm,
  ffn_norm,
  gate,
  up,
  down,
  gate_bias,
  up_bias,
  down_bias,
  router,
  // once per expert of a layer
  expert_gate,
  expert_up,
  expert_down,
};
inline constexpr std::size_t n_tensor_roles = static_cast<std::size_t>(tensor_role::expert_gate);  ///< without experts'
inline constexpr std::size_t n_expert_roles = 3;
constexpr bool per_layer(tensor_role r) { return r >= tensor_role::attention_norm; }
constexpr bool per_expert(tensor_role r) { return r >= tensor_role::expert_gate; }

/// A dimension of a tensor, by what it counts.
enum class extent : std::uint8_t { none, hidden, q, kv, ffn, vocab, half_rotary, head, experts };

/// When a tensor must be there. In a GGUF, which has no key for them, biases are simply present or not.
/// dense, experts: in models without and with experts.
enum class presence : std::uint8_t { required, optional, untied, attention_bias, mlp_bias, dense, experts };

/// '#' in a name stands for the layer, '@' for the expert; without '@' a tensor holds all experts of its layer, one
/// after the other. An empty name: that format never holds the tensor.
struct tensor_rule {
  tensor_role role;
  presence when;
  extent rows;  ///< none: the tensor is a vector of `cols`
  extent cols;
  std::string_view gguf;
  std::string_view safetensors;
};

enum class file_form : std::uint8_t { gguf, safetensors };

/// Where a config.json with experts says what of them. No name: the family has none.
struct expert_keys {
  std::string_view count, ffn;
  bool renormalized = false;  ///< unless norm_topk_prob says otherwise
};

struct family {
  std::string_view gguf_arch;   ///< general.architecture; empty: no GGUF form
  std::string_view model_type;  ///< config.json; empty: no safetensors form
  std::span<const tensor_rule> tensors;
  rope_form gguf_rope;  ///< GGUF converters permute the rows of q and k for some families
  rope_form safetensors_rope;
  activation act;
  bool sliding_window;  ///< config.json's sliding_window holds for every layer
  expert_keys experts;
};

const family* family_of_gguf(std::string_view arch);
const family* family_of_model_type(std::string_view model_type);
/// "llama, mistral": for messages.
std::string known_families();

/// How many elements an extent stands for.
std::uint64_t size_of(extent, const model_config&);
/// The tensor's name in a file of this form.
std::string tensor_name(const tensor_rule&, file_form, std::uint32_t layer, std::uint32_t expert = 0);
/// Whether a tensor of this form holds all experts of its layer.
bool holds_all_experts(const tensor_rule&, file_form);

}  // namespace troupe::model
