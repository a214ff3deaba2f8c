#include "src/model/weights.hpp"

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

}  // namespace

result<weight_table> weight_table::resolve(std::shared_ptr<const format::tensor_source> source, const family& f,
                                           file_form form, const model_config& c) {
  weight_table table;
  table.views_.assign((std::size_t{c.n_layers} + 1) * n_tensor_roles, nullptr);
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
      if (!kernels::traits(view->type).readable)
        return failure(errc::unsupported, source->origin() + ": tensor " + name + " is of type " +
                                              std::string(kernels::name(view->type)) +
                                              ", which cannot be read: convert the model to another type");
      const std::size_t row = per_layer(rule.role) ? std::size_t{layer} + 1 : 0;
      table.views_[row * n_tensor_roles + static_cast<std::size_t>(rule.role)] = view;
      table.bytes_ += view->data.size();
    }
  }
  table.source_ = std::move(source);
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
