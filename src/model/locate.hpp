#pragma once
#include <string>

#include "src/base/result.hpp"

namespace troupe::model {

/// The folder that named models lie in: $TROUPE_MODELS, else $XDG_CACHE_HOME/troupe/models, else ~/.cache/troupe/models.
std::string model_folder();

/// Path of a model given as a file, a directory, or the name of one in the model folder (with or without .gguf).
/// Empty: the default model, "smollm2". Failures say what was looked for and how to get it.
result<std::string> locate_model(const std::string& name);

/// What a model is called when nobody says: a folder's name (for a config.json, of the one in which it lies), a preset's,
/// or a file's without the ending of its format (other dots begin no ending) and without a shard's number.
std::string name_of_model(const std::string& path);

}  // namespace troupe::model
