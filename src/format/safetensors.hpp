#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.hpp"
#include "src/format/mapped_file.hpp"
#include "src/format/tensor_table.hpp"
#include "src/format/tensor_view.hpp"

namespace troupe::format {

/// Tensors of one or several safetensors files (the format: huggingface/safetensors, README). Checked as its reference
/// does: data offsets must lie in the file, neither overlap nor leave holes, and agree with dtype and shape. Views live
/// as long as this object, and survive its being moved.
class safetensors_file final : public tensor_source {
 public:
  /// A .safetensors file; a .safetensors.index.json; or a folder with model.safetensors.index.json, model.safetensors,
  /// or exactly one other .safetensors file. With an index its weight_map decides which shard a tensor is taken from;
  /// what it does not name is left out.
  static result<safetensors_file> open(const std::filesystem::path&);
  /// Reads one file's bytes that the caller keeps alive; `origin` is used in messages.
  static result<safetensors_file> parse(std::span<const std::byte> bytes, std::string origin = "safetensors");

  /// The string map `__metadata__` of the first file; empty if there is none.
  const std::map<std::string, std::string, std::less<>>& metadata() const noexcept { return metadata_; }
  std::size_t n_shards() const noexcept { return n_shards_; }

  std::span<const tensor_view> tensors() const noexcept override { return tensors_.all(); }
  const tensor_view* find(std::string_view name) const noexcept override { return tensors_.find(name); }
  void advise(const tensor_view&, access) const noexcept override;
  const std::string& origin() const noexcept override { return origin_; }

 private:
  friend class safetensors_parser;
  safetensors_file() = default;
  static result<safetensors_file> open_one(const std::filesystem::path&);
  static result<safetensors_file> open_index(const std::filesystem::path&);

  std::string origin_;
  std::size_t n_shards_ = 1;
  std::vector<mapped_file> files_;
  std::vector<std::vector<char>> names_;  // unescaped tensor names, one block of characters per shard
  std::map<std::string, std::string, std::less<>> metadata_;
  tensor_table tensors_;
};

}  // namespace troupe::format
