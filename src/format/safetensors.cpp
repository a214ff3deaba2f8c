#include "src/format/safetensors.hpp"

#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "src/format/quote.hpp"

namespace troupe::format {
namespace {

namespace dom = simdjson::dom;

constexpr std::uint64_t max_header_bytes = 100'000'000;  // the limit of the reference reader
constexpr std::uint64_t max_elements = std::uint64_t{1} << 62;

failure corrupt(const std::string& origin, const std::string& what) {
  return {errc::invalid_file, origin + ": " + what + ": the file is corrupt or incomplete, fetch it again"};
}

/// Parses a copy of `text`, since simdjson reads some bytes past the end.
result<dom::element> parse_json(dom::parser& parser, std::string_view text, const std::string& origin) {
  dom::element root;
  const simdjson::padded_string padded(text);
  if (const auto error = parser.parse(padded).get(root)) {
    return corrupt(origin, "its JSON cannot be read (" + std::string(simdjson::error_message(error)) + ")");
  }
  return root;
}

}  // namespace

/// The header of one file: `8 bytes length, JSON, data`.
class safetensors_parser {
 public:
  safetensors_parser(std::span<const std::byte> bytes, std::string origin) : bytes_(bytes) {
    file_.origin_ = std::move(origin);
  }

  result<safetensors_file> run() {
    std::uint64_t header_bytes = 0;
    if (bytes_.size() < sizeof(header_bytes)) return corrupt(file_.origin_, "is too short to be safetensors");
    std::memcpy(&header_bytes, bytes_.data(), sizeof(header_bytes));
    if (header_bytes > max_header_bytes || header_bytes > bytes_.size() - sizeof(header_bytes)) {
      return corrupt(file_.origin_,
                     "claims a header of " + std::to_string(header_bytes) + " bytes, more than it holds or may have");
    }
    const std::string_view header(reinterpret_cast<const char*>(bytes_.data()) + sizeof(header_bytes),
                                  static_cast<std::size_t>(header_bytes));
    if (header.empty() || header[0] != '{') return corrupt(file_.origin_, "its header does not begin with {");
    data_ = bytes_.subspan(sizeof(header_bytes) + header.size());

    dom::parser parser;
    auto root = parse_json(parser, header, file_.origin_);
    if (!root) return root.take_error();
    dom::object fields;
    if (root->get(fields)) return corrupt(file_.origin_, "its header is not a JSON object");
    if (auto r = read(fields); !r) return r.take_error();
    if (auto r = place(); !r) return r.take_error();
    return std::move(file_);
  }

 private:
  struct pending {
    tensor_view tensor;
    std::uint64_t begin, end;
  };

  result<void> read(const dom::object& fields) {
    // Names must outlive the JSON parser. Counted first, so that the block of characters never moves.
    std::size_t characters = 0;
    for (const auto field : fields) characters += field.key.size();
    std::vector<char> names;
    names.reserve(characters);
    std::set<std::string_view> seen;
    for (const auto field : fields) {
      const std::size_t begin = names.size();
      names.insert(names.end(), field.key.begin(), field.key.end());
      const std::string_view name(names.data() + begin, field.key.size());
      if (!seen.insert(name).second) return corrupt(file_.origin_, "tensor " + quoted(name) + " occurs twice");
      if (name == "__metadata__") {
        if (auto r = metadata(field.value); !r) return r;
        continue;
      }
      pending next{};
      next.tensor.name = name;
      if (auto r = one_tensor(field.value, next); !r) return r;
      pending_.push_back(next);
    }
    file_.names_.push_back(std::move(names));
    return {};
  }

  result<void> metadata(const dom::element& value) {
    dom::object fields;
    if (value.get(fields)) return corrupt(file_.origin_, "__metadata__ is not an object");
    for (const auto field : fields) {
      std::string_view text;
      if (field.value.get(text))
        return corrupt(file_.origin_, "__metadata__ " + quoted(field.key) + " is not a string");
      file_.metadata_.insert_or_assign(std::string(field.key), std::string(text));
    }
    return {};
  }

  result<void> one_tensor(const dom::element& value, pending& next) {
    const auto who = [&next] { return "tensor " + quoted(next.tensor.name); };
    dom::object fields;
    if (value.get(fields)) return corrupt(file_.origin_, who() + " is not an object");
    std::string_view type;
    dom::array shape, offsets;
    // A second field of the same name would go unseen by lookup: count them.
    if (fields.size() != 3 || fields["dtype"].get(type) || fields["shape"].get(shape) ||
        fields["data_offsets"].get(offsets)) {
      return corrupt(file_.origin_, who() + " is not described by dtype, shape and data_offsets");
    }
    const auto known = plain_type(type);
    if (!known) {
      return failure{errc::unsupported, file_.origin_ + ": " + who() + " has type " + quoted(type) +
                                            ", which Troupe does not know: use a model in F32, F16 or BF16"};
    }
    next.tensor.type = *known;

    std::uint64_t elements = 1;
    for (const dom::element dim : shape) {
      std::uint64_t n = 0;
      if (dim.get(n)) return corrupt(file_.origin_, "the shape of " + who() + " does not consist of counts");
      if (n > max_elements || (n != 0 && elements > max_elements / n)) {
        return corrupt(file_.origin_, "the dimensions of " + who() + " multiply to more than 2^62");
      }
      elements *= n;
      if (!next.tensor.shape.push_back(n)) {
        return failure{errc::unsupported,
                       file_.origin_ + ": " + who() + " has more than 8 dimensions: use another model"};
      }
    }
    if (offsets.size() != 2 || offsets.at(0).get(next.begin) || offsets.at(1).get(next.end)) {
      return corrupt(file_.origin_, "data_offsets of " + who() + " are not two counts");
    }
    if (next.begin > next.end || next.end > data_.size()) {
      return corrupt(file_.origin_, who() + " lies at " + std::to_string(next.begin) + " to " +
                                        std::to_string(next.end) + " of " + std::to_string(data_.size()) +
                                        " bytes of data");
    }
    if (kernels::bytes_of(*known, elements) != next.end - next.begin) {
      return corrupt(file_.origin_, who() + " " + to_string(next.tensor.shape) + " of " + std::string(type) +
                                        " does not take " + std::to_string(next.end - next.begin) + " bytes");
    }
    next.tensor.data =
        data_.subspan(static_cast<std::size_t>(next.begin), static_cast<std::size_t>(next.end - next.begin));
    return {};
  }

  static std::optional<dtype> plain_type(std::string_view name) {
    const auto type = kernels::dtype_of_name(name);
    return type && !kernels::traits(*type).quantized ? type : std::nullopt;
  }

  /// The tensors must cover the data one after the other.
  result<void> place() {
    std::sort(pending_.begin(), pending_.end(), [](const pending& a, const pending& b) {
      return std::tie(a.begin, a.end, a.tensor.name) < std::tie(b.begin, b.end, b.tensor.name);
    });
    std::uint64_t covered = 0;
    for (const pending& p : pending_) {
      if (p.begin != covered) {
        return corrupt(file_.origin_, "tensor " + quoted(p.tensor.name) + " begins at " + std::to_string(p.begin) +
                                          " where " + std::to_string(covered) +
                                          " is due (tensors overlap or leave a hole)");
      }
      covered = p.end;
      file_.tensors_.add(p.tensor);
    }
    if (covered != data_.size()) {
      return corrupt(file_.origin_, std::to_string(data_.size() - covered) + " bytes at its end belong to no tensor");
    }
    return {};
  }

  std::span<const std::byte> bytes_, data_;
  std::vector<pending> pending_;
  safetensors_file file_;
};

result<safetensors_file> safetensors_file::parse(std::span<const std::byte> bytes, std::string origin) {
  return safetensors_parser(bytes, std::move(origin)).run();
}

result<safetensors_file> safetensors_file::open_one(const std::filesystem::path& path) {
  auto mapped = mapped_file::open(path);
  if (!mapped) return mapped.take_error();
  auto parsed = parse(mapped->bytes(), mapped->path());
  if (!parsed) return parsed.take_error();
  parsed->files_.push_back(std::move(*mapped));
  return parsed;
}

void safetensors_file::advise(const tensor_view& tensor, access how) const noexcept {
  for (const mapped_file& file : files_) file.advise(tensor.data, how);
}

result<safetensors_file> safetensors_file::open_index(const std::filesystem::path& path) {
  auto mapped = mapped_file::open(path);
  if (!mapped) return mapped.take_error();
  const std::string& origin = mapped->path();
  if (mapped->bytes().size() > max_header_bytes) return corrupt(origin, "is larger than 100 MB");
  dom::parser parser;
  const std::string_view text(reinterpret_cast<const char*>(mapped->bytes().data()), mapped->bytes().size());
  auto root = parse_json(parser, text, origin);
  if (!root) return root.take_error();
  dom::object map;
  if ((*root)["weight_map"].get(map)) return corrupt(origin, "has no object weight_map");

  std::map<std::string_view, std::string_view> shard_of;  // tensor to file name
  std::set<std::string_view> shards;
  for (const auto field : map) {
    std::string_view file;
    if (field.value.get(file)) return corrupt(origin, "weight_map of " + quoted(field.key) + " is not a file name");
    // The index is untrusted: a shard must lie beside it.
    if (file.find_first_of(std::string_view("/\\\0", 3)) != file.npos || !file.ends_with(".safetensors")) {
      return corrupt(origin,
                     "weight_map names the shard " + quoted(file) + ", which is not a .safetensors file in its folder");
    }
    if (!shard_of.emplace(field.key, file).second)
      return corrupt(origin, "weight_map names " + quoted(field.key) + " twice");
    shards.insert(file);
  }

  safetensors_file whole;
  whole.origin_ = origin;
  whole.n_shards_ = shards.size();
  for (const std::string_view file : shards) {
    auto shard = open_one(path.parent_path() / file);
    if (!shard) return shard.take_error();
    for (const tensor_view& t : shard->tensors()) {
      const auto it = shard_of.find(t.name);
      if (it != shard_of.end() && it->second == file) whole.tensors_.add(t);
    }
    if (whole.files_.empty()) whole.metadata_ = std::move(shard->metadata_);
    whole.files_.push_back(std::move(shard->files_.front()));
    whole.names_.push_back(std::move(shard->names_.front()));
  }
  for (const auto& [tensor, file] : shard_of) {
    if (whole.find(tensor) == nullptr) {
      return corrupt(origin, "places tensor " + quoted(tensor) + " in " + quoted(file) + ", which does not hold it");
    }
  }
  return whole;
}

result<safetensors_file> safetensors_file::open(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    return path.string().ends_with(".index.json") ? open_index(path) : open_one(path);
  }
  if (const fs::path index = path / "model.safetensors.index.json"; fs::exists(index, ignored))
    return open_index(index);
  if (const fs::path model = path / "model.safetensors"; fs::exists(model, ignored)) return open_one(model);
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".safetensors") found.push_back(it->path());
  }
  if (error) return failure{errc::io_failed, path.string() + ": cannot be listed (" + error.message() + ")"};
  if (found.size() == 1) return open_one(found.front());
  if (found.empty())
    return failure{errc::not_found, path.string() + ": has no .safetensors file: fetch the model's weights"};
  return failure{errc::invalid_file,
                 path.string() + ": has " + std::to_string(found.size()) +
                     " .safetensors files but no model.safetensors.index.json: fetch the index too"};
}

}  // namespace troupe::format
