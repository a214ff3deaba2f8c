#include "src/format/gguf_parser.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "src/format/quote.hpp"

namespace troupe::format {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF numbers are read with memcpy");

constexpr std::uint64_t max_key_bytes = 65535;  // the format's own limit for keys
constexpr std::uint64_t max_name_bytes = 1024;  // ggml itself allows 64
constexpr std::uint32_t max_dims = 4;
constexpr std::uint64_t max_alignment = 1u << 30;
constexpr std::uint64_t max_elements = std::uint64_t{1} << 62;
// The smallest possible entry (empty key, type, one byte) and tensor info: they bound the counts before anything is
// reserved.
constexpr std::uint64_t min_entry_bytes = 8 + 4 + 1;
constexpr std::uint64_t min_tensor_bytes = 8 + 4 + 4 + 8;

std::string what_magic(std::span<const std::byte> bytes) {
  if (bytes.size() < 4) return "is too short to be a model";
  const std::string_view magic(reinterpret_cast<const char*>(bytes.data()), 4);
  for (std::string_view old : {"lmgg", "fmgg", "tjgg", "algg"}) {  // GGML, GGMF, GGJT, GGLA as little-endian words
    if (magic == old) return "is in a format older than GGUF";
  }
  return "does not begin with the letters GGUF";
}

}  // namespace

std::size_t size_of(gguf_type type) noexcept {
  constexpr std::array<std::uint8_t, 13> sizes{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  const auto id = static_cast<std::uint32_t>(type);
  return id < sizes.size() ? sizes[id] : 0;
}

gguf_parser::gguf_parser(std::span<const std::byte> bytes, std::string origin) : bytes_(bytes) {
  file_.origin_ = std::move(origin);
}

failure gguf_parser::bad(const std::string& what) const {
  return {errc::invalid_file, file_.origin_ + ": " + what + ": the file is corrupt, fetch or convert it again"};
}

failure gguf_parser::ends_early(const std::string& where) const {
  return {errc::invalid_file, file_.origin_ + ": ends early, in " + where + " at byte " + std::to_string(at_) + " of " +
                                  std::to_string(bytes_.size()) + ": the file is incomplete, fetch it again"};
}

bool gguf_parser::read_string(std::string_view& out) noexcept {
  std::uint64_t length = 0;
  if (!read(length)) return false;
  if (length > left()) return false;
  out = {reinterpret_cast<const char*>(bytes_.data() + at_), static_cast<std::size_t>(length)};
  at_ += static_cast<std::size_t>(length);
  return true;
}

result<gguf_file> gguf_parser::run() {
  if (auto r = header(); !r) return r.take_error();
  if (auto r = metadata(); !r) return r.take_error();
  if (auto r = tensor_infos(); !r) return r.take_error();
  if (auto r = place_tensors(); !r) return r.take_error();
  return std::move(file_);
}

result<void> gguf_parser::header() {
  const std::string& origin = file_.origin_;
  if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0) {
    return failure{errc::invalid_file, origin + ": " + what_magic(bytes_) + ": give a GGUF file"};
  }
  at_ = 4;
  std::uint32_t version = 0;
  if (!read(version)) return ends_early("the header");
  if (version == 1) {
    return failure{errc::unsupported, origin + ": is GGUF version 1, which is no longer read: convert the model again"};
  }
  if ((version & 0xffff) == 0 && version != 0) {
    return failure{errc::unsupported, origin + ": is a big-endian GGUF: convert the model for little-endian machines"};
  }
  if (version != 2 && version != 3) {
    return failure{errc::unsupported, origin + ": is GGUF version " + std::to_string(version) +
                                          ", and Troupe reads 2 and 3: convert the model again"};
  }
  file_.version_ = version;
  if (!read(n_tensors_) || !read(n_entries_)) return ends_early("the header");
  if (n_entries_ > left() / min_entry_bytes) {
    return bad("claims " + std::to_string(n_entries_) + " metadata entries, more than its size can hold");
  }
  if (n_tensors_ > left() / min_tensor_bytes) {
    return bad("claims " + std::to_string(n_tensors_) + " tensors, more than its size can hold");
  }
  return {};
}

result<void> gguf_parser::metadata() {
  for (std::uint64_t i = 0; i < n_entries_; ++i) {
    gguf_entry entry;
    if (!read_string(entry.key)) return ends_early("the key of metadata entry " + std::to_string(i));
    if (entry.key.empty()) return bad("metadata entry " + std::to_string(i) + " has an empty key");
    if (entry.key.size() > max_key_bytes)
      return bad("metadata key " + quoted(entry.key) + " is longer than 65535 bytes");
    if (auto r = value(entry); !r) return r;
    if (!file_.entry_index_.emplace(entry.key, static_cast<std::uint32_t>(file_.entries_.size())).second) {
      return bad("metadata key " + quoted(entry.key) + " occurs twice");
    }
    file_.entries_.push_back(entry);
  }
  if (file_.contains("general.alignment")) {
    auto alignment = file_.get_u64("general.alignment");
    if (!alignment) return alignment.take_error();
    if (!std::has_single_bit(*alignment) || *alignment > max_alignment) {
      return bad("general.alignment is " + std::to_string(*alignment) + ", not a power of two up to 2^30");
    }
    file_.alignment_ = *alignment;
  }
  return {};
}

result<void> gguf_parser::value(gguf_entry& entry) {
  const auto known = [](std::uint32_t id) { return id <= static_cast<std::uint32_t>(gguf_type::f64); };
  const auto where = [&entry] { return "the value of " + quoted(entry.key); };
  std::uint32_t id = 0;
  if (!read(id)) return ends_early(where());
  if (!known(id)) return bad("the value of " + quoted(entry.key) + " has the unknown type " + std::to_string(id));
  entry.type = static_cast<gguf_type>(id);
  if (entry.type == gguf_type::string) {
    std::string_view text;
    if (!read_string(text)) return ends_early(where());
    entry.payload = std::as_bytes(std::span(text));
    return {};
  }
  if (entry.type != gguf_type::array) {
    if (left() < size_of(entry.type)) return ends_early(where());
    entry.payload = bytes_.subspan(at_, size_of(entry.type));
    at_ += size_of(entry.type);
    return {};
  }

  std::uint32_t element = 0;
  if (!read(element) || !read(entry.count)) return ends_early(where());
  if (!known(element))
    return bad("the array " + quoted(entry.key) + " has the unknown type " + std::to_string(element));
  entry.element = static_cast<gguf_type>(element);
  if (entry.element == gguf_type::array) {
    return failure{errc::unsupported,
                   file_.origin_ + ": " + quoted(entry.key) +
                       " is an array of arrays, which Troupe does not read: convert the model without it"};
  }
  const std::uint64_t at_least = entry.element == gguf_type::string ? 8 : size_of(entry.element);
  if (entry.count > left() / at_least) {
    return bad("the array " + quoted(entry.key) + " claims " + std::to_string(entry.count) +
               " elements, more than the file holds");
  }
  const std::size_t begin = at_;
  if (entry.element == gguf_type::string) {
    std::string_view skipped;
    for (std::uint64_t i = 0; i < entry.count; ++i) {
      if (!read_string(skipped)) return ends_early("string " + std::to_string(i) + " of " + quoted(entry.key));
    }
  } else {
    at_ += static_cast<std::size_t>(entry.count * at_least);
  }
  entry.payload = bytes_.subspan(begin, at_ - begin);
  return {};
}

result<void> gguf_parser::tensor_infos() {
  for (std::uint64_t i = 0; i < n_tensors_; ++i) {
    pending next{};
    if (!read_string(next.tensor.name)) return ends_early("the name of tensor " + std::to_string(i));
    if (next.tensor.name.empty()) return bad("tensor " + std::to_string(i) + " has no name");
    if (next.tensor.name.size() > max_name_bytes) {
      return bad("the name of tensor " + quoted(next.tensor.name) + " is longer than 1024 bytes");
    }
    if (auto r = one_tensor(next.tensor, next.offset); !r) return r;
    next.bytes = bytes_of(next.tensor.type, next.tensor.shape.elements()).value();
    pending_.push_back(next);
  }
  return {};
}

result<void> gguf_parser::one_tensor(tensor_view& tensor, std::uint64_t& offset) {
  const auto who = [&tensor] { return "tensor " + quoted(tensor.name); };
  std::uint32_t n_dims = 0;
  if (!read(n_dims)) return ends_early(who());
  if (n_dims > max_dims) return bad(who() + " has " + std::to_string(n_dims) + " dimensions, more than 4");
  std::array<std::uint64_t, max_dims> ne{};  // innermost first, as ggml writes them
  std::uint64_t elements = 1;
  for (std::uint32_t d = 0; d < n_dims; ++d) {
    if (!read(ne[d])) return ends_early(who());
    if (ne[d] > max_elements || (ne[d] != 0 && elements > max_elements / ne[d])) {
      return bad("the dimensions of " + who() + " multiply to more than 2^62");
    }
    elements *= ne[d];
  }
  for (std::uint32_t d = n_dims; d-- > 0;) tensor.shape.push_back(ne[d]);

  std::uint32_t id = 0;
  if (!read(id) || !read(offset)) return ends_early(who());
  const auto type = kernels::dtype_of_ggml_id(id);
  if (!type) {
    return failure{errc::unsupported, file_.origin_ + ": " + who() + " has the unknown type id " + std::to_string(id) +
                                          ": use a file with another quantization"};
  }
  tensor.type = *type;
  if (tensor.shape.row() % kernels::traits(*type).block_elements != 0) {
    return bad("rows of " + who() + " have " + std::to_string(tensor.shape.row()) +
               " elements, which is no multiple of the " + std::to_string(kernels::traits(*type).block_elements) +
               " of a " + std::string(kernels::name(*type)) + " block");
  }
  if (!bytes_of(*type, elements)) return bad("the size of " + who() + " overflows");
  if (offset % file_.alignment_ != 0) {
    return bad(who() + " begins at " + std::to_string(offset) + ", which is not aligned to " +
               std::to_string(file_.alignment_));
  }
  return {};
}

result<void> gguf_parser::place_tensors() {
  const std::uint64_t mask = file_.alignment_ - 1;
  const std::uint64_t data_begin = (static_cast<std::uint64_t>(at_) + mask) & ~mask;
  const std::uint64_t data_bytes = data_begin < bytes_.size() ? bytes_.size() - data_begin : 0;
  for (pending& p : pending_) {
    if (p.bytes == 0) continue;  // an empty tensor has no place
    if (p.offset > data_bytes || p.bytes > data_bytes - p.offset) {
      return failure{errc::invalid_file, file_.origin_ + ": tensor " + quoted(p.tensor.name) + " needs " +
                                             std::to_string(p.bytes) + " bytes at " + std::to_string(p.offset) +
                                             " of a data section of " + std::to_string(data_bytes) +
                                             ": the file is incomplete, fetch it again"};
    }
    p.tensor.data = bytes_.subspan(static_cast<std::size_t>(data_begin + p.offset), static_cast<std::size_t>(p.bytes));
  }
  for (const pending& p : pending_) {
    if (!file_.tensors_.add(p.tensor)) return bad("tensor " + quoted(p.tensor.name) + " occurs twice");
  }
  std::sort(pending_.begin(), pending_.end(), [](const pending& a, const pending& b) { return a.offset < b.offset; });
  const pending* before = nullptr;
  for (const pending& p : pending_) {
    if (p.bytes == 0) continue;
    if (before != nullptr && before->offset + before->bytes > p.offset) {
      return bad("tensors " + quoted(before->tensor.name) + " and " + quoted(p.tensor.name) + " overlap");
    }
    before = &p;
  }
  return {};
}

result<gguf_file> gguf_file::parse(std::span<const std::byte> bytes, std::string origin) {
  return gguf_parser(bytes, std::move(origin)).run();
}

}  // namespace troupe::format
