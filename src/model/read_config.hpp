#pragma once
#include <filesystem>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <troupe/sampling_choices.hpp>

#include "src/base/result.hpp"
#include "src/format/gguf.hpp"
#include "src/model/architecture.hpp"
#include "src/model/config.hpp"

/// From what files say to a checked model_config. Errors: invalid_file (missing, malformed or out of range), unsupported
/// (understood, but no such forward pass here). Messages name the file and the key.
namespace troupe::model {

struct described_model {
  model_config config;
  const family* architecture = nullptr;
  std::string stored_type;  ///< config.json's torch_dtype; empty: not said
  sampling_choices sampling;  ///< of generation_config.json, or the keys general.sampling.*
  bool quantized = false;   ///< config.json's linear layers are F8_E4M3
};

result<described_model> config_from_gguf(const format::gguf_file&);

/// `config_json`, `generation_json`: contents of config.json and generation_config.json (may be empty);
/// `has_head`: whether the files hold a tensor of this family's head name is decided by the caller with the family at
/// hand, because old configs leave tie_word_embeddings out.
result<described_model> config_from_json(std::string_view config_json, std::string_view generation_json,
                                         const std::string& origin);

/// The text of a config.json or one of its relatives.
result<std::string> read_config_file(const std::filesystem::path&);

/// Ranges, divisibility and derived sizes; `origin` is for messages.
result<void> check(const model_config&, const std::string& origin);

/// Files write it as a number of any kind; none where it is not a whole one in range.
std::optional<std::int32_t> recommended_top_k(float);

}  // namespace troupe::model
