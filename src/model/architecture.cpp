#include "src/model/architecture.hpp"

namespace troupe::model {
namespace {

using enum tensor_role;
using enum presence;
using ext = extent;

// Names: transformers' Llama and Mixtral, which is a llama with experts to a GGUF, and llama.cpp's gguf-py/gguf/constants.py.
constexpr tensor_rule llama_tensors[] = {
    {embedding, required, ext::vocab, ext::hidden, "token_embd.weight", "model.embed_tokens.weight"},
    {output_norm, required, ext::none, ext::hidden, "output_norm.weight", "model.norm.weight"},
    {head, untied, ext::vocab, ext::hidden, "output.weight", "lm_head.weight"},
    {rope_divisors, optional, ext::none, ext::half_rotary, "rope_freqs.weight", ""},
    {attention_norm, required, ext::none, ext::hidden, "blk.#.attn_norm.weight",
     "model.layers.#.input_layernorm.weight"},
    {q, required, ext::q, ext::hidden, "blk.#.attn_q.weight", "model.layers.#.self_attn.q_proj.weight"},
    {k, required, ext::kv, ext::hidden, "blk.#.attn_k.weight", "model.layers.#.self_attn.k_proj.weight"},
    {v, required, ext::kv, ext::hidden, "blk.#.attn_v.weight", "model.layers.#.self_attn.v_proj.weight"},
    {o, required, ext::hidden, ext::q, "blk.#.attn_output.weight", "model.layers.#.self_attn.o_proj.weight"},
    {q_bias, attention_bias, ext::none, ext::q, "blk.#.attn_q.bias", "model.layers.#.self_attn.q_proj.bias"},
    {k_bias, attention_bias, ext::none, ext::kv, "blk.#.attn_k.bias", "model.layers.#.self_attn.k_proj.bias"},
    {v_bias, attention_bias, ext::none, ext::kv, "blk.#.attn_v.bias", "model.layers.#.self_attn.v_proj.bias"},
    {o_bias, attention_bias, ext::none, ext::hidden, "blk.#.attn_output.bias",
     "model.layers.#.self_attn.o_proj.bias"},
    {ffn_norm, required, ext::none, ext::hidden, "blk.#.ffn_norm.weight",
     "model.layers.#.post_attention_layernorm.weight"},
    {gate, dense, ext::ffn, ext::hidden, "blk.#.ffn_gate.weight", "model.layers.#.mlp.gate_proj.weight"},
    {up, dense, ext::ffn, ext::hidden, "blk.#.ffn_up.weight", "model.layers.#.mlp.up_proj.weight"},
    {down, dense, ext::hidden, ext::ffn, "blk.#.ffn_down.weight", "model.layers.#.mlp.down_proj.weight"},
    {gate_bias, mlp_bias, ext::none, ext::ffn, "blk.#.ffn_gate.bias", "model.layers.#.mlp.gate_proj.bias"},
    {up_bias, mlp_bias, ext::none, ext::ffn, "blk.#.ffn_up.bias", "model.layers.#.mlp.up_proj.bias"},
    {down_bias, mlp_bias, ext::none, ext::hidden, "blk.#.ffn_down.bias", "model.layers.#.mlp.down_proj.bias"},
    {router, presence::experts, ext::experts, ext::hidden, "blk.#.ffn_gate_inp.weight",
     "model.layers.#.block_sparse_moe.gate.weight"},
    {expert_gate, presence::experts, ext::ffn, ext::hidden, "blk.#.ffn_gate_exps.weight",
     "model.layers.#.block_sparse_moe.experts.@.w1.weight"},
    {expert_up, presence::experts, ext::ffn, ext::hidden, "blk.#.ffn_up_exps.weight",
     "model.layers.#.block_sparse_moe.experts.@.w3.weight"},
    {expert_down, presence::experts, ext::hidden, ext::ffn, "blk.#.ffn_down_exps.weight",
     "model.layers.#.block_sparse_moe.experts.@.w2.weight"},
};

constexpr family families[] = {
    {"llama", "llama", llama_tensors, rope_form::interleaved, rope_form::half, activation::silu, false, false},
    {"", "mistral", llama_tensors, rope_form::interleaved, rope_form::half, activation::silu, true, false},
    {"", "mixtral", llama_tensors, rope_form::interleaved, rope_form::half, activation::silu, true, true},
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
    case extent::none: return 0;
    case extent::hidden: return c.hidden;
    case extent::q: return c.q_size();
    case extent::kv: return c.kv_size();
    case extent::ffn: return c.ffn;
    case extent::vocab: return c.vocab;
    case extent::half_rotary: return c.rope.dim / 2;
    case extent::experts: return c.n_experts;
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
