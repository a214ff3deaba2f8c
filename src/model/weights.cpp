#include "src/model/weights.hpp"

#include <cmath>
#include <string>

#include "src/format/dequantize.hpp"

namespace troupe::model {
namespace {

bool must_exist(const tensor_rule& rule, file_form form, const model_config& c) {
  switch (rule.when) {
    case presence::required:
      return true;
    case presence::optional:
      return false;
    case presence::untied:
      return !c.tied_embedding;
    case presence::attention_bias:
      return form == file_form::safetensors && c.attention_bias;
    case presence::mlp_bias:
      return form == file_form::safetensors && c.mlp_bias;
    case presence::dense:
      return c.n_experts == 0;
    case presence::experts:
      return c.n_experts > 0;
  }
  return true;
}

/// False: a tensor of this name would be ignored by whoever made the file, so it is by us.
bool may_exist(const tensor_rule& rule, file_form form, const model_config& c) {
  switch (rule.when) {
    case presence::untied:
      return !c.tied_embedding;
    case presence::attention_bias:
      return form == file_form::gguf || c.attention_bias;
    case presence::mlp_bias:
      return form == file_form::gguf || c.mlp_bias;
    case presence::dense:
      return c.n_experts == 0;
    case presence::experts:
      return c.n_experts > 0;
    default:
      return true;
  }
}

/// What an F8 matrix is multiplied with: NAME_scale beside NAME, as llm-compressor writes it and vLLM reads it.
result<float> scale_of(const format::tensor_source& source, const format::tensor_view& matrix) {
  const std::string name(matrix.name), where = source.origin() + ": tensor " + name + " of type F8_E4M3 ";
  const auto only = [&](const char* how) {
    return failure(
        errc::unsupported,
        where + "is scaled " + how + ", only one scale per tensor can be read: use a model of that kind, or a GGUF");
  };
  if (source.find(name + "_scale_inv")) return only("per block");  // DeepSeek's name for it
  const format::tensor_view* scale = source.find(name + "_scale");
  if (!scale) return failure(errc::invalid_file, where + "has no " + name + "_scale beside it: the file is incomplete");
  const std::uint64_t n = scale->shape.elements();
  if (n == 0)
    return failure(errc::invalid_file,
                   where + "has a scale of shape " + format::to_string(scale->shape) + ": the file is damaged");
  if (n != 1) return only(n == matrix.shape[0] ? "per channel" : "per block");
  if (scale->type != kernels::dtype::f32 && scale->type != kernels::dtype::bf16)
    return failure(errc::unsupported, where + "has a scale of type " + std::string(kernels::name(scale->type)) +
                                          ", which must be F32 or BF16: convert the model again");
  float x = 0;
  format::dequantize(scale->type, scale->data.data(), &x, 1);
  if (!std::isfinite(x))
    return failure(errc::invalid_file, where + "has a scale that is not finite: the file is damaged");
  return x;
}

/// The embedding's rows are looked up as they are stored.
bool may_be_f8(const tensor_rule& rule) { return rule.rows != extent::none && rule.role != tensor_role::embedding; }

/// The file's tensor of this name, checked against what the rule says. Null: it is not there and need not be.
result<const format::tensor_view*> stored(const format::tensor_source& source, const std::string& name,
                                          const tensor_rule& rule, file_form form, const model_config& c) {
  const format::tensor_view* view = source.find(name);
  if (!view) {
    if (!must_exist(rule, form, c)) return view;
    return failure(errc::invalid_file, source.origin() + ": tensor " + name +
                                           " is missing: the file is incomplete, or not the model its metadata says");
  }
  format::tensor_shape want;
  if (holds_all_experts(rule, form)) want.push_back(c.n_experts);
  if (rule.rows != extent::none) want.push_back(size_of(rule.rows, c));
  want.push_back(size_of(rule.cols, c));
  if (!(view->shape == want))
    return failure(errc::invalid_file, source.origin() + ": tensor " + name + " has shape " +
                                           format::to_string(view->shape) + ", its metadata asks for " +
                                           format::to_string(want));
  if (!format::can_dequantize(view->type))
    return failure(errc::unsupported, source.origin() + ": tensor " + name + " is of type " +
                                          std::string(kernels::name(view->type)) +
                                          ", which cannot be read: convert the model to another type");
  if (view->type == kernels::dtype::f8_e4m3 && (!may_be_f8(rule) || holds_all_experts(rule, form)))
    return failure(errc::unsupported, source.origin() + ": tensor " + name +
                                          " is of type F8_E4M3, which only linear layers may be: convert the "
                                          "model again");
  return view;
}

/// Expert e of a tensor that holds n of them.
format::tensor_view one_of(const format::tensor_view& all, std::uint32_t e, std::uint32_t n) {
  format::tensor_view out = all;
  out.shape = {all.shape[1], all.shape[2]};
  const std::size_t bytes = all.data.size() / n;
  out.data = all.data.subspan(e * bytes, bytes);
  return out;
}

}  // namespace

result<weight_table> weight_table::resolve(std::shared_ptr<const format::tensor_source> source, const family& f,
                                           file_form form, const model_config& c) {
  weight_table table;
  table.views_.assign((std::size_t{c.n_layers} + 1) * n_tensor_roles, nullptr);
  table.n_experts_ = c.n_experts;
  table.experts_.assign(std::size_t{c.n_layers} * n_expert_roles * c.n_experts, nullptr);
  auto own = std::make_shared<std::vector<format::tensor_view>>();
  const auto keep = [&](const format::tensor_view& v) {
    if (own->empty()) own->reserve(table.views_.size() + table.experts_.size());  // addresses stay
    return &own->emplace_back(v);
  };
  for (const tensor_rule& rule : f.tensors) {
    if ((form == file_form::gguf ? rule.gguf : rule.safetensors).empty() || !may_exist(rule, form, c)) continue;
    const bool together = holds_all_experts(rule, form);
    const std::uint32_t n_layers = per_layer(rule.role) ? c.n_layers : 1,
                        n_files = per_expert(rule.role) && !together ? c.n_experts : 1;
    for (std::uint32_t layer = 0; layer < n_layers; ++layer)
      for (std::uint32_t e = 0; e < n_files; ++e) {
        auto found = stored(*source, tensor_name(rule, form, layer, e), rule, form, c);
        if (!found) return found.take_error();
        const format::tensor_view* view = *found;
        if (!view) continue;
        if (view->type == kernels::dtype::f8_e4m3) {
          auto scale = scale_of(*source, *view);
          if (!scale) return scale.take_error();
          auto* scaled = keep(*view);
          scaled->scale = *scale;
          view = scaled;
        }
        table.bytes_ += view->data.size();
        if (together)
          for (std::uint32_t i = 0; i < c.n_experts; ++i)
            table.experts_[table.expert_place(rule.role, layer, i)] = keep(one_of(*view, i, c.n_experts));
        else if (per_expert(rule.role))
          table.experts_[table.expert_place(rule.role, layer, e)] = view;
        else
          table.views_[(per_layer(rule.role) ? std::size_t{layer} + 1 : 0) * n_tensor_roles +
                       static_cast<std::size_t>(rule.role)] = view;
      }
  }
  table.source_ = std::move(source);
  table.own_ = std::move(own);
  return table;
}

result<weight_table> weight_table::mapped(const view_change& change) const {
  weight_table out;
  out.source_ = source_;
  out.views_ = views_;
  out.views_[static_cast<std::size_t>(tensor_role::head)] = &head();
  out.experts_ = experts_;
  out.n_experts_ = n_experts_;
  auto own = std::make_shared<std::vector<format::tensor_view>>();
  own->reserve(out.views_.size() + out.experts_.size());  // addresses stay
  const auto map = [&](const format::tensor_view*& view, std::size_t role) -> result<void> {
    if (!view) return {};
    auto changed = change(static_cast<tensor_role>(role), *view);
    if (!changed) return changed.take_error();
    out.bytes_ += changed->data.size();
    view = &own->emplace_back(*changed);
    return {};
  };
  for (std::size_t i = 0; i < out.views_.size(); ++i)
    if (auto ok = map(out.views_[i], i % n_tensor_roles); !ok) return ok.take_error();
  for (std::size_t i = 0; i < out.experts_.size(); ++i)
    if (auto ok = map(out.experts_[i], n_tensor_roles + i / n_experts_ % n_expert_roles); !ok) return ok.take_error();
  out.own_ = std::move(own);
  return out;
}

}  // namespace troupe::model
