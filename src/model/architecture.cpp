#include "src/model/architecture.hpp"

#include <array>

namespace troupe::model {
namespace {

using enum tensor_role;
using enum presence;
using ext = extent;

// Names: transformers' modules and llama.cpp's gguf-py/gguf/constants.py. Tables are joined from what families share.
constexpr std::array attention_tensors = {
    tensor_rule{embedding, required, ext::vocab, ext::hidden, "token_embd.weight", "model.embed_tokens.weight"},
    tensor_rule{output_norm, required, ext::none, ext::hidden, "output_norm.weight", "model.norm.weight"},
    tensor_rule{head, untied, ext::vocab, ext::hidden, "output.weight", "lm_head.weight"},
    tensor_rule{rope_divisors, optional, ext::none, ext::half_rotary, "rope_freqs.weight", ""},
    tensor_rule{attention_norm, required, ext::none, ext::hidden, "blk.#.attn_norm.weight",
                "model.layers.#.input_layernorm.weight"},
    tensor_rule{q, required, ext::q, ext::hidden, "blk.#.attn_q.weight", "model.layers.#.self_attn.q_proj.weight"},
    tensor_rule{k, required, ext::kv, ext::hidden, "blk.#.attn_k.weight", "model.layers.#.self_attn.k_proj.weight"},
    tensor_rule{v, required, ext::kv, ext::hidden, "blk.#.attn_v.weight", "model.layers.#.self_attn.v_proj.weight"},
    tensor_rule{o, required, ext::hidden, ext::q, "blk.#.attn_output.weight", "model.layers.#.self_attn.o_proj.weight"},
    tensor_rule{q_bias, attention_bias, ext::none, ext::q, "blk.#.attn_q.bias", "model.layers.#.self_attn.q_proj.bias"},
    tensor_rule{k_bias, attention_bias, ext::none, ext::kv, "blk.#.attn_k.bias",
                "model.layers.#.self_attn.k_proj.bias"},
    tensor_rule{v_bias, attention_bias, ext::none, ext::kv, "blk.#.attn_v.bias",
                "model.layers.#.self_attn.v_proj.bias"},
    tensor_rule{o_bias, attention_bias, ext::none, ext::hidden, "blk.#.attn_output.bias",
                "model.layers.#.self_attn.o_proj.bias"},
    tensor_rule{ffn_norm, required, ext::none, ext::hidden, "blk.#.ffn_norm.weight",
                "model.layers.#.post_attention_layernorm.weight"},
};
constexpr std::array head_norms = {
    tensor_rule{q_norm, required, ext::none, ext::head, "blk.#.attn_q_norm.weight",
                "model.layers.#.self_attn.q_norm.weight"},
    tensor_rule{k_norm, required, ext::none, ext::head, "blk.#.attn_k_norm.weight",
                "model.layers.#.self_attn.k_norm.weight"},
};
constexpr std::array dense_mlp = {
    tensor_rule{gate, dense, ext::ffn, ext::hidden, "blk.#.ffn_gate.weight", "model.layers.#.mlp.gate_proj.weight"},
    tensor_rule{up, dense, ext::ffn, ext::hidden, "blk.#.ffn_up.weight", "model.layers.#.mlp.up_proj.weight"},
    tensor_rule{down, dense, ext::hidden, ext::ffn, "blk.#.ffn_down.weight", "model.layers.#.mlp.down_proj.weight"},
    tensor_rule{gate_bias, mlp_bias, ext::none, ext::ffn, "blk.#.ffn_gate.bias", "model.layers.#.mlp.gate_proj.bias"},
    tensor_rule{up_bias, mlp_bias, ext::none, ext::ffn, "blk.#.ffn_up.bias", "model.layers.#.mlp.up_proj.bias"},
    tensor_rule{down_bias, mlp_bias, ext::none, ext::hidden, "blk.#.ffn_down.bias",
                "model.layers.#.mlp.down_proj.bias"},
};
/// GGUFs call all experts alike; safetensors do not.
constexpr std::array<tensor_rule, 4> experts_named(std::string_view router_name, std::string_view gate_name,
                                                   std::string_view up_name, std::string_view down_name) {
  return {{
      {router, presence::experts, ext::experts, ext::hidden, "blk.#.ffn_gate_inp.weight", router_name},
      {expert_gate, presence::experts, ext::ffn, ext::hidden, "blk.#.ffn_gate_exps.weight", gate_name},
      {expert_up, presence::experts, ext::ffn, ext::hidden, "blk.#.ffn_up_exps.weight", up_name},
      {expert_down, presence::experts, ext::hidden, ext::ffn, "blk.#.ffn_down_exps.weight", down_name},
  }};
}
constexpr auto mixtral_experts = experts_named(
    "model.layers.#.block_sparse_moe.gate.weight", "model.layers.#.block_sparse_moe.experts.@.w1.weight",
    "model.layers.#.block_sparse_moe.experts.@.w3.weight", "model.layers.#.block_sparse_moe.experts.@.w2.weight");
constexpr auto qwen_experts =
    experts_named("model.layers.#.mlp.gate.weight", "model.layers.#.mlp.experts.@.gate_proj.weight",
                  "model.layers.#.mlp.experts.@.up_proj.weight", "model.layers.#.mlp.experts.@.down_proj.weight");

template <std::size_t... sizes>
constexpr auto join(const std::array<tensor_rule, sizes>&... tables) {
  std::array<tensor_rule, (sizes + ...)> out{};
  std::size_t at = 0;
  (
      [&] {
        for (const tensor_rule& r : tables) out[at++] = r;
      }(),
      ...);
  return out;
}

// A GGUF calls Mixtral a llama.
constexpr auto llama_tensors = join(attention_tensors, dense_mlp, mixtral_experts);
constexpr auto qwen3_tensors = join(attention_tensors, head_norms, dense_mlp, qwen_experts);

constexpr expert_keys mixtral_keys{"num_local_experts", "intermediate_size", true};
constexpr expert_keys qwen_keys{"num_experts", "moe_intermediate_size", false};

constexpr family families[] = {
    {"llama", "llama", llama_tensors, rope_form::interleaved, rope_form::half, activation::silu, false, {}},
    {"", "mistral", llama_tensors, rope_form::interleaved, rope_form::half, activation::silu, true, {}},
    {"", "mixtral", llama_tensors, rope_form::interleaved, rope_form::half, activation::silu, true, mixtral_keys},
    {"qwen3", "qwen3", qwen3_tensors, rope_form::half, rope_form::half, activation::silu, false, {}},
    {"qwen3moe", "qwen3_moe", qwen3_tensors, rope_form::half, rope_form::half, activation::silu, false, qwen_keys},
};

}  // namespace

const family* family_of_gguf(std::string_view arch) {
  for (const family& f : families)
    if (!f.gguf_arch.empty() && f.gguf_arch == arch) return &f;
  return nullptr;
}

const family* family_of_model_type(std::string_view model_type) {
  for (const family& f : families)
    if (!f.model_type.empty() && f.model_type == model_type) return &f;
  return nullptr;
}

std::string known_families() {
  std::string out;
  for (const family& f : families) {
    if (!out.empty()) out += ", ";
    out += f.model_type.empty() ? f.gguf_arch : f.model_type;
  }
  return out;
}

std::uint64_t size_of(extent e, const model_config& c) {
  switch (e) {
    case extent::none:
      return 0;
    case extent::hidden:
      return c.hidden;
    case extent::q:
      return c.q_size();
    case extent::kv:
      return c.kv_size();
    case extent::ffn:
      return c.ffn;
    case extent::vocab:
      return c.vocab;
    case extent::half_rotary:
      return c.rope.dim / 2;
    case extent::head:
      return c.head_dim;
    case extent::experts:
      return c.n_experts;
  }
  return 0;
}

namespace {
std::string_view pattern_of(const tensor_rule& rule, file_form form) {
  return form == file_form::gguf ? rule.gguf : rule.safetensors;
}
}  // namespace

bool holds_all_experts(const tensor_rule& rule, file_form form) {
  return per_expert(rule.role) && pattern_of(rule, form).find('@') == std::string_view::npos;
}

std::string tensor_name(const tensor_rule& rule, file_form form, std::uint32_t layer, std::uint32_t expert) {
  std::string out;
  for (char c : pattern_of(rule, form))
    if (c == '#')
      out += std::to_string(layer);
    else if (c == '@')
      out += std::to_string(expert);
    else
      out += c;
  return out;
}

}  // namespace troupe::model
