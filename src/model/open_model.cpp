#include "src/model/open_model.hpp"

#include <algorithm>
#include <filesystem>

#include "src/format/gguf.hpp"
#include "src/format/safetensors.hpp"
#include "src/model/read_config.hpp"

namespace troupe::model {
namespace {

namespace fs = std::filesystem;

result<std::shared_ptr<const model>> finish(std::string path, described_model described, file_form form,
                                            std::shared_ptr<const format::tensor_source> source) {
  auto weights = weight_table::resolve(std::move(source), *described.architecture, form, described.config);
  if (!weights) return weights.take_error();
  return std::make_shared<const model>(
      model{std::move(path), std::move(described.config), std::move(*weights), described.sampling});
}

result<std::shared_ptr<const model>> open_gguf(const std::string& path) {
  auto file = format::gguf_file::open(path);
  if (!file) return file.take_error();
  auto source = std::make_shared<format::gguf_file>(std::move(*file));
  auto described = config_from_gguf(*source);
  if (!described) return described.take_error();
  return finish(path, std::move(*described), file_form::gguf, std::move(source));
}

result<std::shared_ptr<const model>> open_folder(const std::string& path) {
  const fs::path folder(path);
  auto config = read_config_file(folder / "config.json");
  if (!config) return config.take_error();
  std::string generation;
  if (fs::exists(folder / "generation_config.json")) {
    auto text = read_config_file(folder / "generation_config.json");
    if (!text) return text.take_error();
    generation = std::move(*text);
  }
  auto described = config_from_json(*config, generation, (folder / "config.json").string());
  if (!described) return described.take_error();
  auto file = format::safetensors_file::open(folder);
  if (!file) return file.take_error();
  auto source = std::make_shared<format::safetensors_file>(std::move(*file));
  return finish(path, std::move(*described), file_form::safetensors, std::move(source));
}

}  // namespace

std::uint64_t longest_sequence(const model_config& c) {
  const rope_config& r = c.rope;
  const double scaled = r.scaling == rope_scaling::linear ? c.context * r.factor
                        : r.scaling == rope_scaling::yarn ? r.original_context * r.factor
                                                          : 0;
  return std::max<std::uint64_t>(c.context, static_cast<std::uint64_t>(scaled));
}

result<std::shared_ptr<const model>> open_model(const std::string& path) {
  std::error_code ec;
  const fs::file_status status = fs::status(path, ec);
  if (!fs::exists(status)) return failure(errc::not_found, path + ": no such file or folder: give a .gguf file or a model folder");
  return fs::is_directory(status) ? open_folder(path) : open_gguf(path);
}

}  // namespace troupe::model
