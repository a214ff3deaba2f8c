#pragma once
#include <span>
#include <string_view>

namespace troupe::model {

/// A published model's numbers: a file of config/models, built in.
struct preset {
  std::string_view name;         ///< the file's, without .json
  std::string_view config_json;  ///< as Hugging Face's config.json spells them
};

/// In alphabetical order.
std::span<const preset> presets() noexcept;

}  // namespace troupe::model
