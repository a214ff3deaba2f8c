#pragma once
#include <memory>
#include <string>

#include <troupe/sampling_choices.hpp>

#include "src/base/result.hpp"
#include "src/model/config.hpp"
#include "src/model/weights.hpp"

namespace troupe::model {

/// A model on disk: its numbers and its tensors, checked against each other. Immutable; the tensors point into mapped
/// files that live as long as the model.
struct model {
  std::string path;  ///< for random weights: of the config.json, or the preset's name
  model_config config;
  weight_table weights;
  sampling_choices sampling;  ///< what the files recommend; ranges are not checked
};

/// Tokens of the longest sequence. A scaled rotary embedding reaches further than the context that most files of such
/// models state.
std::uint64_t longest_sequence(const model_config&);

/// Opens a .gguf file (the first shard of a split one) or a Hugging Face directory (config.json and *.safetensors, with
/// or without an index). Reads no tensor data. Errors: not_found, invalid_file, unsupported.
result<std::shared_ptr<const model>> open_model(const std::string& path);

/// A model of random weights, to measure speed where no weights are: `name` is a folder with a config.json, such a file,
/// or a preset of config/models. The weights are of the type that the config names, by default bf16, and take hardly any
/// memory (format::random_tensors). Errors: not_found (listing the presets), invalid_file, unsupported.
result<std::shared_ptr<const model>> open_dummy_model(const std::string& name);

}  // namespace troupe::model
