#include "src/model/weights.hpp"

#include <cmath>
#include <string>

#include "src/format/dequantize.hpp"

namespace troupe::model {
namespace {

bool must_exist(const tensor_rule& rule, file_form form, const model_config& c) {
  switch (rule.when) {
    case presence::required: return true;
    case presence::optional: return false;
    case presence::untied: return !c.tied_embedding;
    case presence::attention_bias: return form == file_form::safetensors && c.attention_bias;
    case presence::mlp_bias: return form == file_form::safetensors && c.mlp_bias;
  }
  return true;
}

/// False: a tensor of this name would be ignored by whoever made the file, so it is by us.
bool may_exist(const tensor_rule& rule, file_form form, const model_config& c) {
  switch (rule.when) {
    case presence::untied: return !c.tied_embedding;
    case presence::attention_bias: return form == file_form::gguf || c.attention_bias;
    case presence::mlp_bias: return form == file_form::gguf || c.mlp_bias;
    default: return true;
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

}  // namespace

result<weight_table> weight_table::resolve(std::shared_ptr<const format::tensor_source> source, const family& f,
                                           file_form form, const model_config& c) {
  weight_table table;
  table.views_.assign((std::size_t{c.n_layers} + 1) * n_tensor_roles, nullptr);
  auto own = std::make_shared<std::vector<format::tensor_view>>();
  for (const tensor_rule& rule : f.tensors) {
    if ((form == file_form::gguf ? rule.gguf : rule.safetensors).empty() || !may_exist(rule, form, c)) continue;
    const std::uint32_t copies = per_layer(rule.role) ? c.n_layers : 1;
    for (std::uint32_t layer = 0; layer < copies; ++layer) {
      const std::string name = tensor_name(rule, form, layer);
      const format::tensor_view* view = source->find(name);
      if (!view) {
        if (!must_exist(rule, form, c)) continue;
        return failure(errc::invalid_file, source->origin() + ": tensor " + name +
                                               " is missing: the file is incomplete, or not the model its metadata says");
      }
      const format::tensor_shape want = rule.rows == extent::none
                                            ? format::tensor_shape{size_of(rule.cols, c)}
                                            : format::tensor_shape{size_of(rule.rows, c), size_of(rule.cols, c)};
      if (!(view->shape == want))
        return failure(errc::invalid_file, source->origin() + ": tensor " + name + " has shape " +
                                               format::to_string(view->shape) + ", its metadata asks for " +
                                               format::to_string(want));
      if (!format::can_dequantize(view->type))
        return failure(errc::unsupported, source->origin() + ": tensor " + name + " is of type " +
                                              std::string(kernels::name(view->type)) +
                                              ", which cannot be read: convert the model to another type");
      if (view->type == kernels::dtype::f8_e4m3) {
        if (!may_be_f8(rule))
          return failure(errc::unsupported, source->origin() + ": tensor " + name +
                                                " is of type F8_E4M3, which only linear layers may be: convert the "
                                                "model again");
        auto scale = scale_of(*source, *view);
        if (!scale) return scale.take_error();
        if (own->empty()) own->reserve(table.views_.size());  // addresses stay
        own->push_back(*view);
        own->back().scale = *scale;
        view = &own->back();
      }
      const std::size_t row = per_layer(rule.role) ? std::size_t{layer} + 1 : 0;
      table.views_[row * n_tensor_roles + static_cast<std::size_t>(rule.role)] = view;
      table.bytes_ += view->data.size();
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
  auto own = std::make_shared<std::vector<format::tensor_view>>();
  own->reserve(out.views_.size());  // addresses stay
  for (std::size_t i = 0; i < out.views_.size(); ++i) {
    if (!out.views_[i]) continue;
    auto view = change(static_cast<tensor_role>(i % n_tensor_roles), *out.views_[i]);
    if (!view) return view.take_error();
    out.bytes_ += view->data.size();
    out.views_[i] = &own->emplace_back(*view);
  }
  out.own_ = std::move(own);
  return out;
}

}  // namespace troupe::model
