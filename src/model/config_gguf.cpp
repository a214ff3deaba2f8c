#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

#include "src/model/read_config.hpp"

namespace troupe::model {
namespace {

/// Reads keys of one architecture; remembers the first failure so that the caller reads as a list.
class reader {
 public:
  reader(const format::gguf_file& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}

  std::uint32_t number(const char* key) { return narrow(key, file_.get_u64(prefix_ + key)); }
  std::uint32_t number(const char* key, std::uint32_t fallback) {
    return narrow(key, file_.get_u64(prefix_ + key, fallback));
  }
  double real(const char* key, double fallback) { return take(file_.get_f64(prefix_ + key, fallback), fallback); }
  std::string text(const char* key, const char* fallback) {
    return std::string(take(file_.get_string(prefix_ + key, fallback), std::string_view(fallback)));
  }
  bool has(const char* key) const { return file_.contains(prefix_ + key); }
  /// A number for all layers, or an array with one number per layer that must all be equal.
  std::uint32_t same_for_all(const char* key, std::uint32_t fallback) {
    const format::gguf_entry* e = file_.entry(prefix_ + key);
    if (!e || e->type != format::gguf_type::array) return number(key, fallback);
    const auto all = file_.get_u64s(prefix_ + key);
    if (!all) return narrow(key, failure(all.error()));
    if (all->empty() || std::any_of(all->begin(), all->end(), [&](auto x) { return x != all->front(); })) {
      fail(failure(errc::unsupported, file_.origin() + ": " + prefix_ + key + " differs between layers, which is not supported"));
      return fallback;
    }
    return narrow(key, result<std::uint64_t>(all->front()));
  }
  void fail(failure f) {
    if (!failure_) failure_ = std::make_unique<failure>(std::move(f));
  }
  const failure* error() const { return failure_.get(); }

 private:
  template <class T>
  T take(result<T> r, T fallback) {
    if (r) return *r;
    fail(r.take_error());
    return fallback;
  }
  std::uint32_t narrow(const char* key, result<std::uint64_t> r) {
    if (!r) {
      // A key that must be there and is not: the file is at fault, not the caller.
      fail(failure(errc::invalid_file, r.error().message));
      return 0;
    }
    if (*r > std::numeric_limits<std::uint32_t>::max()) {
      fail(failure(errc::invalid_file, file_.origin() + ": " + prefix_ + key + " is out of range"));
      return 0;
    }
    return static_cast<std::uint32_t>(*r);
  }

  const format::gguf_file& file_;
  std::string prefix_;
  std::unique_ptr<failure> failure_;
};

void read_rope(reader& in, model_config& c) {
  rope_config& r = c.rope;
  r.dim = in.number(".rope.dimension_count", c.head_dim);
  r.theta = in.real(".rope.freq_base", 10000.0);
  const std::string scaling = in.text(".rope.scaling.type", in.has(".rope.scale_linear") ? "linear" : "none");
  r.factor = in.real(".rope.scaling.factor", in.real(".rope.scale_linear", 1.0));
  if (scaling == "none" || r.factor == 0.0) {
    r.factor = 1.0;
  } else if (scaling == "linear") {
    r.scaling = rope_scaling::linear;
  } else if (scaling == "yarn") {
    r.scaling = rope_scaling::yarn;
    r.original_context = in.number(".rope.scaling.original_context_length", c.context);
    r.beta_fast = in.real(".rope.scaling.yarn_beta_fast", 32.0);
    r.beta_slow = in.real(".rope.scaling.yarn_beta_slow", 1.0);
    r.attention_factor = (r.factor <= 1.0 ? 1.0 : 0.1 * std::log(r.factor) + 1.0) *
                         in.real(".rope.scaling.yarn_attn_factor", in.real(".rope.scaling.attn_factor", 1.0));
  } else {
    in.fail(failure(errc::unsupported, "rope scaling of type '" + scaling + "' is not supported"));
  }
}

/// llama.cpp's keys; its converter takes them from generation_config.json.
sampling_choices read_sampling(const format::gguf_file& file, reader& keys) {
  const auto maybe = [&](const std::string& name) -> std::optional<float> {
    const std::string key = "general.sampling." + name;
    if (!file.contains(key)) return std::nullopt;
    auto x = file.get_f64(key);
    if (x) return static_cast<float>(*x);
    keys.fail(x.take_error());
    return std::nullopt;
  };
  sampling_choices s;
  s.temperature = maybe("temp");
  if (const auto k = maybe("top_k")) {
    s.top_k = recommended_top_k(*k);
    if (!s.top_k)
      keys.fail(failure(errc::invalid_file, file.origin() + ": general.sampling.top_k is not a whole number in range"));
  }
  s.top_p = maybe("top_p");
  s.min_p = maybe("min_p");
  s.repetition_penalty = maybe("penalty_repeat");
  return s;
}

}  // namespace

result<described_model> config_from_gguf(const format::gguf_file& file) {
  const auto arch = file.get_string("general.architecture");
  if (!arch) return failure(errc::invalid_file, arch.error().message);
  described_model out;
  out.architecture = family_of_gguf(*arch);
  if (!out.architecture)
    return failure(errc::unsupported, file.origin() + ": architecture '" + std::string(*arch) +
                                          "' is not supported: known are " + known_families());
  model_config& c = out.config;
  c.architecture = *arch;
  if (auto name = file.get_string("general.name", ""); name) c.name = *name;

  reader in(file, c.architecture);
  c.n_layers = in.number(".block_count");
  c.hidden = in.number(".embedding_length");
  c.context = in.number(".context_length");
  c.ffn = in.same_for_all(".feed_forward_length", 0);
  c.n_heads = in.same_for_all(".attention.head_count", 0);
  c.n_kv_heads = in.same_for_all(".attention.head_count_kv", c.n_heads);
  c.head_dim = in.number(".attention.key_length", c.n_heads ? c.hidden / c.n_heads : 0);
  if (in.number(".attention.value_length", c.head_dim) != c.head_dim)
    in.fail(failure(errc::unsupported, file.origin() + ": keys and values of different size are not supported"));
  c.n_experts = in.number(".expert_count", 0);
  if (c.n_experts) {
    c.n_experts_used = in.number(".expert_used_count");
    c.ffn = in.same_for_all(".expert_feed_forward_length", c.ffn);
  }
  c.rms_eps = static_cast<float>(in.real(".attention.layer_norm_rms_epsilon", 1e-5));
  c.act = out.architecture->act;
  c.rope.form = out.architecture->gguf_rope;
  read_rope(in, c);
  out.sampling = read_sampling(file, in);

  // The embedding's rows are the truth about the vocabulary: the key is optional and was wrong in some files.
  const format::tensor_view* table = nullptr;
  for (const tensor_rule& rule : out.architecture->tensors) {
    if (rule.role == tensor_role::embedding) table = file.find(rule.gguf);
    const auto found = [&] { return file.find(tensor_name(rule, file_form::gguf, 0)) != nullptr; };
    if (rule.role == tensor_role::head) c.tied_embedding = !found();
    if (rule.when == presence::attention_bias && found()) c.attention_bias = true;
    if (rule.when == presence::mlp_bias && found()) c.mlp_bias = true;
  }
  if (!table || table->shape.size() != 2 || table->shape[0] > limits::vocab)
    return failure(errc::invalid_file, file.origin() + ": token_embd.weight is missing or malformed");
  c.vocab = static_cast<std::uint32_t>(table->shape[0]);

  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    if (!file.contains(key)) continue;
    const auto id = file.get_u64(key);
    if (!id || *id >= c.vocab) return failure(errc::invalid_file, file.origin() + ": " + key + " is not a token id");
    const auto token = static_cast<token_id>(*id);
    if (std::find(c.eos.begin(), c.eos.end(), token) == c.eos.end()) c.eos.push_back(token);
  }
  if (in.error()) return *in.error();
  if (auto ok = check(c, file.origin()); !ok) return ok.take_error();
  return out;
}

}  // namespace troupe::model
