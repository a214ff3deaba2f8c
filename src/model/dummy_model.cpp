#include <algorithm>
#include <filesystem>

#include "src/format/random_tensors.hpp"
#include "src/model/open_model.hpp"
#include "src/model/presets.hpp"
#include "src/model/read_config.hpp"

namespace troupe::model {
namespace {

namespace fs = std::filesystem;
using kernels::dtype;

struct found_config {
  std::string path;  // what to call it
  std::string text;
};

result<found_config> find_config(const std::string& name) {
  std::error_code ignored;
  if (!name.empty() && name.size() <= 4096 && fs::exists(name, ignored)) {
    const fs::path file = fs::is_directory(name, ignored) ? fs::path(name) / "config.json" : fs::path(name);
    auto text = read_config_file(file);
    if (!text) return text.take_error();
    return found_config{file.string(), std::move(*text)};
  }
  std::string known;
  for (const preset& p : presets()) {
    if (p.name == name) return found_config{name, std::string(p.config_json)};
    known += (known.empty() ? "" : ", ") + std::string(p.name);
  }
  return failure(errc::not_found, "no model '" + name.substr(0, 4096) + "' to make random weights for: give a folder with a config.json, such a file, or one of " + known);
}

result<dtype> type_of(const described_model& described, const std::string& origin) {
  if (described.quantized)  // bf16 would not measure the speed of what the config describes
    return failure(errc::unsupported,
                   origin + ": random weights in fp8 are not supported: take the quantization_config out");
  const std::string& name = described.stored_type;
  if (name.empty() || name == "bfloat16") return dtype::bf16;
  if (name == "float16") return dtype::f16;
  if (name == "float32") return dtype::f32;
  return failure(errc::unsupported, origin + ": torch_dtype '" + name + "' is not supported: use bfloat16, float16 or float32");
}

bool is_norm(tensor_role r) {
  using enum tensor_role;
  return r == output_norm || r == attention_norm || r == ffn_norm || r == q_norm || r == k_norm;
}

/// Every tensor that the config asks for, as safetensors would hold it.
std::vector<format::made_tensor> all_tensors(const family& f, const model_config& c) {
  const auto wanted = [&c](presence when) {
    switch (when) {
      case presence::required: return true;
      case presence::optional: return false;
      case presence::untied: return !c.tied_embedding;
      case presence::attention_bias: return c.attention_bias;
      case presence::mlp_bias: return c.mlp_bias;
      case presence::dense: return c.n_experts == 0;
      case presence::experts: return c.n_experts > 0;
    }
    return false;
  };
  std::vector<format::made_tensor> out;
  for (const tensor_rule& rule : f.tensors) {
    if (rule.safetensors.empty() || !wanted(rule.when)) continue;
    format::tensor_shape shape;
    if (rule.rows != extent::none) shape.push_back(size_of(rule.rows, c));
    shape.push_back(size_of(rule.cols, c));
    for (std::uint32_t layer = 0; layer < (per_layer(rule.role) ? c.n_layers : 1); ++layer)
      for (std::uint32_t expert = 0; expert < (per_expert(rule.role) ? c.n_experts : 1); ++expert)
        out.push_back({tensor_name(rule, file_form::safetensors, layer, expert), shape, is_norm(rule.role)});
  }
  return out;
}

}  // namespace

result<std::shared_ptr<const model>> open_dummy_model(const std::string& name) {
  auto found = find_config(name);
  if (!found) return found.take_error();
  auto described = config_from_json(found->text, {}, found->path);
  if (!described) return described.take_error();
  const auto type = type_of(*described, found->path);
  if (!type) return type.error();
  auto source = format::random_tensors::make(all_tensors(*described->architecture, described->config), *type, found->path);
  if (!source) return source.take_error();
  auto weights = weight_table::resolve(std::move(*source), *described->architecture, file_form::safetensors, described->config);
  if (!weights) return weights.take_error();
  return std::make_shared<const model>(model{std::move(found->path), std::move(described->config), std::move(*weights), {}});
}

}  // namespace troupe::model
