#include <simdjson.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>

#include "src/model/read_config.hpp"

namespace troupe::model {
namespace {

namespace dom = simdjson::dom;

/// Reads members of one JSON object; remembers the first failure so that the caller reads as a list. A null counts as
/// absent.
class reader {
 public:
  reader(dom::object object, const std::string& origin) : object_(object), origin_(origin) {}

  bool has(const char* key) const {
    dom::element e;
    return !object_.at_key(key).get(e) && !e.is_null();
  }
  std::uint32_t number(const char* key) {
    if (!has(key)) fail(errc::invalid_file, std::string(key) + " is missing");
    return number(key, 0);
  }
  std::uint32_t number(const char* key, std::uint32_t fallback) {
    if (!has(key)) return fallback;
    std::uint64_t x;
    if (object_.at_key(key).get(x) || x > std::numeric_limits<std::uint32_t>::max()) {
      fail(errc::invalid_file, std::string(key) + " is not a number in range");
      return fallback;
    }
    return static_cast<std::uint32_t>(x);
  }
  double real(const char* key, double fallback) {
    if (!has(key)) return fallback;
    double x;
    if (object_.at_key(key).get(x)) {
      fail(errc::invalid_file, std::string(key) + " is not a number");
      return fallback;
    }
    return x;
  }
  std::optional<float> maybe(const char* key) {
    if (!has(key)) return std::nullopt;
    return static_cast<float>(real(key, 0));
  }
  bool flag(const char* key, bool fallback) {
    if (!has(key)) return fallback;
    bool x;
    if (object_.at_key(key).get(x)) {
      fail(errc::invalid_file, std::string(key) + " is not true or false");
      return fallback;
    }
    return x;
  }
  std::string text(const char* key, const char* fallback) {
    if (!has(key)) return fallback;
    std::string_view x;
    if (object_.at_key(key).get(x)) {
      fail(errc::invalid_file, std::string(key) + " is not a string");
      return fallback;
    }
    return std::string(x);
  }
  dom::object object(const char* key) {
    dom::object x = object_;
    if (object_.at_key(key).get(x)) fail(errc::invalid_file, std::string(key) + " is not an object");
    return x;
  }
  /// Absent, or a list without elements.
  bool empty(const char* key) const {
    dom::array list;
    return !has(key) || (!object_.at_key(key).get(list) && list.size() == 0);
  }
  /// A number or a list of numbers.
  void ids(const char* key, std::vector<token_id>& out) {
    if (!has(key)) return;
    dom::element e;
    if (object_.at_key(key).get(e)) return;
    const auto add = [&](dom::element one) {
      std::int64_t id;
      if (one.get(id) || id < 0 || id > std::numeric_limits<token_id>::max())
        fail(errc::invalid_file, std::string(key) + " is not a token id");
      else if (std::find(out.begin(), out.end(), static_cast<token_id>(id)) == out.end())
        out.push_back(static_cast<token_id>(id));
    };
    dom::array many;
    if (e.get(many))
      add(e);
    else
      for (dom::element one : many) add(one);
  }
  void fail(errc code, const std::string& what) {
    if (!failure_) failure_ = std::make_shared<failure>(code, origin_ + ": " + what);
  }
  void adopt(const reader& other) {
    if (!failure_) failure_ = other.failure_;
  }
  const failure* error() const { return failure_.get(); }

 private:
  dom::object object_;
  const std::string& origin_;
  std::shared_ptr<failure> failure_;
};

/// As vLLM takes them over, and do_sample, which it leaves out: published files say false where they mean greedy.
sampling_choices read_sampling(reader& in) {
  sampling_choices s;
  s.temperature = in.maybe("temperature");
  if (!in.flag("do_sample", true)) s.temperature = 0.0f;
  if (const auto k = in.maybe("top_k")) {
    s.top_k = recommended_top_k(*k);
    if (!s.top_k) in.fail(errc::invalid_file, "top_k is not a whole number in range");
  }
  s.top_p = in.maybe("top_p");
  s.min_p = in.maybe("min_p");
  s.repetition_penalty = in.maybe("repetition_penalty");
  return s;
}

double mscale(double factor, double m) { return factor <= 1.0 ? 1.0 : 0.1 * m * std::log(factor) + 1.0; }

void read_scaling(reader& in, model_config& c) {
  rope_config& r = c.rope;
  r.theta = in.real("rope_theta", r.theta);
  const std::string type = in.text("rope_type", in.text("type", "default").c_str());
  r.factor = in.real("factor", 1.0);
  if (type == "default" || type == "none") {
    r.factor = 1.0;
  } else if (type == "linear") {
    r.scaling = rope_scaling::linear;
  } else if (type == "llama3") {
    r.scaling = rope_scaling::llama3;
    r.low_freq_factor = in.real("low_freq_factor", 1.0);
    r.high_freq_factor = in.real("high_freq_factor", 4.0);
    r.original_context = in.real("original_max_position_embeddings", 0.0);
  } else if (type == "yarn") {
    r.scaling = rope_scaling::yarn;
    r.original_context = in.real("original_max_position_embeddings", c.context);
    r.beta_fast = in.real("beta_fast", 32.0);
    r.beta_slow = in.real("beta_slow", 1.0);
    r.truncate = in.flag("truncate", true);
    const double m = in.real("mscale", 0.0), all = in.real("mscale_all_dim", 0.0);
    const double implied = m != 0.0 && all != 0.0 ? mscale(r.factor, m) / mscale(r.factor, all) : mscale(r.factor, 1.0);
    r.attention_factor = in.real("attention_factor", implied);
  } else {
    in.fail(errc::unsupported, "rope scaling of type '" + type + "' is not supported");
  }
}

void read_rope(reader& in, model_config& c, const std::string& origin) {
  c.rope.dim = static_cast<std::uint32_t>(c.head_dim * in.real("partial_rotary_factor", 1.0));
  c.rope.theta = in.real("rope_theta", 10000.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {  // transformers before 5, and since
    if (!in.has(key)) continue;
    reader sub(in.object(key), origin);
    read_scaling(sub, c);
    in.adopt(sub);
  }
}

/// Weights of F8_E4M3 with one scale per tensor can be read; what else there is, is refused by its name. Spellings:
/// vLLM's "fp8" and llm-compressor's "compressed-tensors". What they say of activations is for machines that quantize
/// those, too.
void check_quantization(reader& in, const std::string& origin) {
  if (!in.has("quantization_config")) return;
  reader q(in.object("quantization_config"), origin);
  const auto refuse = [&](const std::string& what) {
    q.fail(errc::unsupported, "quantized safetensors with " + what +
                                  " are not supported: use fp8 with one scale per tensor, or a GGUF of this model");
  };
  const std::string method = q.text("quant_method", "");
  if (method == "fp8") {
    if (q.has("weight_block_size")) refuse("fp8 scaled per block");
  } else if (method == "compressed-tensors") {
    if (const std::string form = q.text("format", ""); form != "float-quantized") refuse("the format '" + form + "'");
    for (const auto& [key, value] : q.object("config_groups")) {
      dom::object group;
      if (value.get(group)) {
        q.fail(errc::invalid_file, "config_groups is not made of objects");
        break;
      }
      reader g(group, origin);
      reader w(g.object("weights"), origin);
      g.adopt(w);
      q.adopt(g);
      if (const std::string strategy = w.text("strategy", ""); strategy != "tensor")
        refuse("fp8 scaled per '" + strategy + "'");
      if (w.text("type", "") != "float" || w.number("num_bits", 0) != 8) refuse("weights of another type than fp8");
      q.adopt(w);
    }
  } else {
    refuse("quant_method '" + method + "'");
  }
  in.adopt(q);
}

}  // namespace

result<described_model> config_from_json(std::string_view config_json, std::string_view generation_json,
                                         const std::string& origin) {
  dom::parser parser;
  dom::object root;
  const simdjson::padded_string text(config_json);
  if (auto e = parser.parse(text).get(root))
    return failure(errc::invalid_file, origin + ": not a JSON object: " + simdjson::error_message(e));
  reader in(root, origin);

  described_model out;
  model_config& c = out.config;
  c.architecture = in.text("model_type", "");
  out.architecture = family_of_model_type(c.architecture);
  if (!out.architecture)
    return failure(errc::unsupported, origin + ": model_type '" + c.architecture + "' is not supported: known are " +
                                          known_families());
  check_quantization(in, origin);
  out.quantized = in.has("quantization_config");
  c.name = in.text("_name_or_path", "");
  out.stored_type = in.text("torch_dtype", in.text("dtype", "").c_str());  // transformers before 5, and since
  c.n_layers = in.number("num_hidden_layers");
  c.hidden = in.number("hidden_size");
  c.ffn = in.number("intermediate_size");
  c.vocab = in.number("vocab_size");
  c.context = in.number("max_position_embeddings", 2048);
  c.n_heads = in.number("num_attention_heads");
  c.n_kv_heads = in.number("num_key_value_heads", c.n_heads);
  c.head_dim = in.number("head_dim", c.n_heads ? c.hidden / c.n_heads : 0);
  c.rms_eps = static_cast<float>(in.real("rms_norm_eps", 1e-6));
  c.attention_bias = in.flag("attention_bias", false);
  c.mlp_bias = in.flag("mlp_bias", false);
  c.tied_embedding = in.flag("tie_word_embeddings", false);
  if (out.architecture->sliding_window) c.window = in.number("sliding_window", 0);
  if (in.flag("use_sliding_window", false))
    in.fail(errc::unsupported, "use_sliding_window is not supported for this model_type");
  if (const expert_keys& keys = out.architecture->experts; !keys.count.empty()) {
    c.n_experts = in.number(keys.count.data());
    c.n_experts_used = in.number("num_experts_per_tok");
    c.ffn = in.number(keys.ffn.data());
    c.experts_renormalized = in.flag("norm_topk_prob", keys.renormalized);
    if (in.number("decoder_sparse_step", 1) != 1 || !in.empty("mlp_only_layers"))
      in.fail(errc::unsupported, "layers without experts among those with some are not supported");
  }
  c.act = out.architecture->act;
  if (const std::string act = in.text("hidden_act", "silu"); act != "silu" && act != "swish")
    in.fail(errc::unsupported, "hidden_act '" + act + "' is not supported for this model_type");
  c.rope.form = out.architecture->safetensors_rope;
  read_rope(in, c, origin);

  in.ids("eos_token_id", c.eos);
  dom::parser second;
  dom::object generation;
  const simdjson::padded_string more(generation_json);
  if (!generation_json.empty() && !second.parse(more).get(generation)) {
    const std::string beside = (std::filesystem::path(origin).parent_path() / "generation_config.json").string();
    reader also(generation, beside);
    also.ids("eos_token_id", c.eos);
    out.sampling = read_sampling(also);
    in.adopt(also);
  }
  // Ids past the vocabulary cannot come out of the model; published configs have some.
  std::erase_if(c.eos, [&](token_id id) { return static_cast<std::uint32_t>(id) >= c.vocab; });
  if (in.error()) return *in.error();
  if (auto ok = check(c, origin); !ok) return ok.take_error();
  return out;
}

}  // namespace troupe::model
