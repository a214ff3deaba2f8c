#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "src/base/result.hpp"
#include "src/format/mapped_file.hpp"
#include "src/format/tensor_table.hpp"
#include "src/format/tensor_view.hpp"

namespace troupe::format {

/// Types of metadata values, with the ids of the file.
enum class gguf_type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// "u32", "array", …
std::string_view name(gguf_type) noexcept;

/// One metadata entry, still as it lies in the file; its bounds are checked. `payload` has any alignment. A string's
/// payload is its text; an array's payload is its elements back to back (strings each with their 8-byte length before
/// them).
struct gguf_entry {
  std::string_view key;
  gguf_type type = gguf_type::u8;
  gguf_type element = gguf_type::u8;  ///< of an array
  std::uint64_t count = 1;            ///< elements of an array, else 1
  std::span<const std::byte> payload;
};

/// "dir/model.gguf" for its shard "dir/model-00002-of-00005.gguf"; any other path as it is.
std::string name_of_all_shards(const std::string& path);

/// A GGUF file of version 2 or 3, little-endian (the format: ggml's docs/gguf.md): metadata and tensors over one
/// read-only mapping per shard. Everything that the file says about lengths, counts and offsets is checked before use;
/// after `open` no access can leave the file. Views (strings, tensor data) live as long as this object, and survive its
/// being moved.
///
/// Getters by key fail with `not_found` if the key is absent and no fallback was given, and with `invalid_file` if the
/// value is of another kind or does not fit; the message names file and key.
class gguf_file final : public tensor_source {
 public:
  /// Opens the file, and if it is one shard of several (split.count; names end in -00001-of-0000N.gguf) all of them as
  /// one model: metadata of the first, tensors of all in order of shard.
  static result<gguf_file> open(const std::filesystem::path&);
  /// Reads bytes that the caller keeps alive; `origin` is used in messages. A shard stays alone.
  static result<gguf_file> parse(std::span<const std::byte> bytes, std::string origin = "GGUF");

  std::uint32_t version() const noexcept { return version_; }
  std::uint64_t alignment() const noexcept { return alignment_; }
  std::size_t n_shards() const noexcept { return n_shards_; }

  /// Metadata in the order of the file.
  std::span<const gguf_entry> entries() const noexcept { return entries_; }
  const gguf_entry* entry(std::string_view key) const noexcept;
  bool contains(std::string_view key) const noexcept { return entry(key) != nullptr; }

  /// Any integer type; negative numbers fail.
  result<std::uint64_t> get_u64(std::string_view key) const;
  result<std::uint64_t> get_u64(std::string_view key, std::uint64_t fallback) const;
  /// Any integer type.
  result<std::int64_t> get_i64(std::string_view key) const;
  result<std::int64_t> get_i64(std::string_view key, std::int64_t fallback) const;
  /// Any number.
  result<double> get_f64(std::string_view key) const;
  result<double> get_f64(std::string_view key, double fallback) const;
  result<bool> get_bool(std::string_view key) const;
  result<bool> get_bool(std::string_view key, bool fallback) const;
  /// The bytes as they are: not checked to be UTF-8.
  result<std::string_view> get_string(std::string_view key) const;
  result<std::string_view> get_string(std::string_view key, std::string_view fallback) const;

  /// Arrays. Numbers are copied out of the file and converted: i32 and u64 from any integer type that fits, f32 from
  /// f32 or f64.
  result<std::vector<std::string_view>> get_strings(std::string_view key) const;
  result<std::vector<std::int32_t>> get_i32s(std::string_view key) const;
  result<std::vector<std::uint64_t>> get_u64s(std::string_view key) const;
  result<std::vector<float>> get_f32s(std::string_view key) const;
  result<std::vector<bool>> get_bools(std::string_view key) const;

  std::span<const tensor_view> tensors() const noexcept override { return tensors_.all(); }
  const tensor_view* find(std::string_view name) const noexcept override { return tensors_.find(name); }
  void advise(const tensor_view&, access) const noexcept override;
  const std::string& origin() const noexcept override { return origin_; }

 private:
  friend class gguf_parser;
  gguf_file() = default;
  static result<gguf_file> open_shards(const std::string& path, std::uint64_t count);

  result<const gguf_entry*> require(std::string_view key) const;
  failure wrong_type(const gguf_entry&, std::string_view wanted) const;
  template <class T, class Convert>
  result<std::vector<T>> numbers(std::string_view key, std::string_view wanted, Convert) const;

  std::string origin_;
  std::uint32_t version_ = 0;
  std::uint64_t alignment_ = 32;
  std::size_t n_shards_ = 1;
  std::vector<mapped_file> files_;
  std::vector<gguf_entry> entries_;
  std::unordered_map<std::string_view, std::uint32_t> entry_index_;
  tensor_table tensors_;
};

}  // namespace troupe::format
