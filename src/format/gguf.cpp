#include "src/format/gguf.hpp"

#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "src/format/gguf_parser.hpp"
#include "src/format/quote.hpp"

namespace troupe::format {
namespace {

/// Calls f(value) for each of `count` numbers at `at` until it returns false. False if the type is not a number or f
/// said so.
template <class F>
bool each_number(gguf_type type, std::uint64_t count, const std::byte* at, F f) {
  const auto run = [&]<class T>(std::type_identity<T>) {
    for (std::uint64_t i = 0; i < count; ++i) {
      T value;
      std::memcpy(&value, at + i * sizeof(T), sizeof(T));
      if (!f(value)) return false;
    }
    return true;
  };
  switch (type) {
    case gguf_type::u8:
      return run(std::type_identity<std::uint8_t>{});
    case gguf_type::i8:
      return run(std::type_identity<std::int8_t>{});
    case gguf_type::u16:
      return run(std::type_identity<std::uint16_t>{});
    case gguf_type::i16:
      return run(std::type_identity<std::int16_t>{});
    case gguf_type::u32:
      return run(std::type_identity<std::uint32_t>{});
    case gguf_type::i32:
      return run(std::type_identity<std::int32_t>{});
    case gguf_type::u64:
      return run(std::type_identity<std::uint64_t>{});
    case gguf_type::i64:
      return run(std::type_identity<std::int64_t>{});
    case gguf_type::f32:
      return run(std::type_identity<float>{});
    case gguf_type::f64:
      return run(std::type_identity<double>{});
    case gguf_type::boolean:
    case gguf_type::string:
    case gguf_type::array:
      return false;
  }
  return false;
}

template <class To>
struct to_integer {
  template <class From>
  std::optional<To> operator()(From v) const {
    if constexpr (std::is_integral_v<From>) {
      if (std::in_range<To>(v)) return static_cast<To>(v);
    }
    return std::nullopt;
  }
};

struct to_double {
  template <class From>
  std::optional<double> operator()(From v) const {
    return static_cast<double>(v);
  }
};

struct to_float {
  template <class From>
  std::optional<float> operator()(From v) const {
    if constexpr (std::is_floating_point_v<From>) return static_cast<float>(v);
    return std::nullopt;
  }
};

template <class T, class Convert>
std::optional<T> scalar(const gguf_entry& e, Convert convert) {
  std::optional<T> out;
  if (e.type == gguf_type::array) return out;
  each_number(e.type, 1, e.payload.data(), [&](auto v) {
    out = convert(v);
    return out.has_value();
  });
  return out;
}

std::optional<bool> truth(std::byte b) {
  if (b > std::byte{1}) return std::nullopt;
  return b == std::byte{1};
}

std::string described(const gguf_entry& e) {
  if (e.type != gguf_type::array) return std::string(name(e.type));
  return "array of " + std::to_string(e.count) + " " + std::string(name(e.element));
}

struct shard_name {
  std::string prefix;
  std::uint32_t number, count;
};

/// Splits "dir/model-00002-of-00005.gguf"; none if the name has another form.
std::optional<shard_name> read_shard_name(const std::string& path) {
  constexpr std::string_view form = "-00000-of-00000.gguf";
  if (path.size() < form.size()) return std::nullopt;
  const std::string_view tail = std::string_view(path).substr(path.size() - form.size());
  std::array<std::uint32_t, 2> numbers{};
  for (std::size_t i = 0, which = 0; i < form.size(); ++i) {
    if (form[i] == '0') {
      if (tail[i] < '0' || tail[i] > '9') return std::nullopt;
      numbers[which] = numbers[which] * 10 + static_cast<std::uint32_t>(tail[i] - '0');
      if (i + 1 < form.size() && form[i + 1] != '0') which = 1;
    } else if (tail[i] != form[i]) {
      return std::nullopt;
    }
  }
  return shard_name{path.substr(0, path.size() - form.size()), numbers[0], numbers[1]};
}

std::string write_shard_name(const std::string& prefix, std::uint32_t number, std::uint32_t count) {
  const auto five = [](std::uint32_t n) {
    const std::string digits = std::to_string(n);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return prefix + "-" + five(number) + "-of-" + five(count) + ".gguf";
}

}  // namespace

std::string name_of_all_shards(const std::string& path) {
  const auto name = read_shard_name(path);
  return name && name->number >= 1 && name->number <= name->count ? name->prefix + ".gguf" : path;
}

std::string_view name(gguf_type type) noexcept {
  constexpr std::array<std::string_view, 13> names{"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                                   "bool", "string", "array", "u64", "i64", "f64"};
  const auto id = static_cast<std::uint32_t>(type);
  return id < names.size() ? names[id] : "?";
}

result<gguf_file> gguf_file::open(const std::filesystem::path& path) {
  auto mapped = mapped_file::open(path);
  if (!mapped) return mapped.take_error();
  auto parsed = parse(mapped->bytes(), mapped->path());
  if (!parsed) return parsed.take_error();
  auto n_shards = parsed->get_u64("split.count", 1);
  if (!n_shards) return n_shards.take_error();
  if (*n_shards > 1) return open_shards(path.string(), *n_shards);
  parsed->files_.push_back(std::move(*mapped));
  return parsed;
}

result<gguf_file> gguf_file::open_shards(const std::string& path, std::uint64_t count) {
  const auto name = read_shard_name(path);
  if (!name || name->count != count || name->number < 1 || name->number > count) {
    return failure{errc::invalid_argument, path + ": is one of " + std::to_string(count) +
                                               " shards, but not named like " +
                                               write_shard_name("model", 1, static_cast<std::uint32_t>(count)) +
                                               ": give the shards the names they were published with"};
  }
  std::optional<gguf_file> whole;
  for (std::uint32_t i = 0; i < name->count; ++i) {
    auto mapped = mapped_file::open(write_shard_name(name->prefix, i + 1, name->count));
    if (!mapped) return mapped.take_error();
    auto shard = parse(mapped->bytes(), mapped->path());
    if (!shard) return shard.take_error();
    auto number = shard->get_u64("split.no");
    if (!number) return number.take_error();
    auto of = shard->get_u64("split.count");
    if (!of) return of.take_error();
    if (*number != i || *of != count) {
      return failure{errc::invalid_file, mapped->path() + ": says it is shard " + std::to_string(*number + 1) + " of " +
                                             std::to_string(*of) + ", unlike its name: fetch the model again"};
    }
    if (!whole) {
      whole.emplace(std::move(*shard));
      whole->n_shards_ = name->count;
    } else {
      for (const tensor_view& t : shard->tensors()) {
        if (!whole->tensors_.add(t)) {
          return failure{errc::invalid_file, mapped->path() + ": tensor " + quoted(t.name) +
                                                 " is in an earlier shard too: fetch the model again"};
        }
      }
    }
    whole->files_.push_back(std::move(*mapped));
  }
  auto expected = whole->get_u64("split.tensors.count", whole->tensors().size());
  if (!expected) return expected.take_error();
  if (*expected != whole->tensors().size()) {
    return failure{errc::invalid_file, whole->origin_ + ": the shards hold " + std::to_string(whole->tensors().size()) +
                                           " tensors, and split.tensors.count says " + std::to_string(*expected) +
                                           ": fetch the model again"};
  }
  return std::move(*whole);
}

void gguf_file::advise(const tensor_view& tensor, access how) const noexcept {
  for (const mapped_file& file : files_) file.advise(tensor.data, how);
}

const gguf_entry* gguf_file::entry(std::string_view key) const noexcept {
  const auto it = entry_index_.find(key);
  return it == entry_index_.end() ? nullptr : &entries_[it->second];
}

result<const gguf_entry*> gguf_file::require(std::string_view key) const {
  const gguf_entry* found = entry(key);
  if (found != nullptr) return found;
  return failure{errc::not_found, origin_ + ": has no metadata key " + quoted(key) + ": convert the model again"};
}

failure gguf_file::wrong_type(const gguf_entry& e, std::string_view wanted) const {
  return {errc::invalid_file, origin_ + ": metadata key " + quoted(e.key) + " (" + described(e) + ") is not " +
                                  std::string(wanted) + ": convert the model again"};
}

result<std::uint64_t> gguf_file::get_u64(std::string_view key) const {
  auto e = require(key);
  if (!e) return e.take_error();
  if (auto v = scalar<std::uint64_t>(**e, to_integer<std::uint64_t>{})) return *v;
  return wrong_type(**e, "an integer of 0 or more");
}

result<std::int64_t> gguf_file::get_i64(std::string_view key) const {
  auto e = require(key);
  if (!e) return e.take_error();
  if (auto v = scalar<std::int64_t>(**e, to_integer<std::int64_t>{})) return *v;
  return wrong_type(**e, "an integer of 64 bits");
}

result<double> gguf_file::get_f64(std::string_view key) const {
  auto e = require(key);
  if (!e) return e.take_error();
  if (auto v = scalar<double>(**e, to_double{})) return *v;
  return wrong_type(**e, "a number");
}

result<bool> gguf_file::get_bool(std::string_view key) const {
  auto e = require(key);
  if (!e) return e.take_error();
  if ((*e)->type == gguf_type::boolean) {
    if (auto v = truth((*e)->payload[0])) return *v;
  }
  return wrong_type(**e, "true or false");
}

result<std::string_view> gguf_file::get_string(std::string_view key) const {
  auto e = require(key);
  if (!e) return e.take_error();
  if ((*e)->type != gguf_type::string) return wrong_type(**e, "a string");
  return std::string_view(reinterpret_cast<const char*>((*e)->payload.data()), (*e)->payload.size());
}

result<std::uint64_t> gguf_file::get_u64(std::string_view key, std::uint64_t fallback) const {
  if (!contains(key)) return fallback;
  return get_u64(key);
}
result<std::int64_t> gguf_file::get_i64(std::string_view key, std::int64_t fallback) const {
  if (!contains(key)) return fallback;
  return get_i64(key);
}
result<double> gguf_file::get_f64(std::string_view key, double fallback) const {
  if (!contains(key)) return fallback;
  return get_f64(key);
}
result<bool> gguf_file::get_bool(std::string_view key, bool fallback) const {
  if (!contains(key)) return fallback;
  return get_bool(key);
}
result<std::string_view> gguf_file::get_string(std::string_view key, std::string_view fallback) const {
  if (!contains(key)) return fallback;
  return get_string(key);
}

result<std::vector<std::string_view>> gguf_file::get_strings(std::string_view key) const {
  auto found = require(key);
  if (!found) return found.take_error();
  const gguf_entry& e = **found;
  if (e.type != gguf_type::array || e.element != gguf_type::string) return wrong_type(e, "an array of strings");
  std::vector<std::string_view> out;
  out.reserve(static_cast<std::size_t>(e.count));
  const std::byte* at = e.payload.data();
  for (std::uint64_t i = 0; i < e.count; ++i) {  // lengths were checked when the file was parsed
    std::uint64_t length;
    std::memcpy(&length, at, sizeof(length));
    out.emplace_back(reinterpret_cast<const char*>(at + sizeof(length)), static_cast<std::size_t>(length));
    at += sizeof(length) + length;
  }
  return out;
}

template <class T, class Convert>
result<std::vector<T>> gguf_file::numbers(std::string_view key, std::string_view wanted, Convert convert) const {
  auto found = require(key);
  if (!found) return found.take_error();
  const gguf_entry& e = **found;
  if (e.type != gguf_type::array) return wrong_type(e, wanted);
  std::vector<T> out;
  out.reserve(static_cast<std::size_t>(e.count));
  const bool all = each_number(e.element, e.count, e.payload.data(), [&](auto v) {
    const auto converted = convert(v);
    if (converted) out.push_back(*converted);
    return converted.has_value();
  });
  if (!all) return wrong_type(e, wanted);
  return out;
}

result<std::vector<std::int32_t>> gguf_file::get_i32s(std::string_view key) const {
  return numbers<std::int32_t>(key, "an array of integers of 32 bits", to_integer<std::int32_t>{});
}

result<std::vector<std::uint64_t>> gguf_file::get_u64s(std::string_view key) const {
  return numbers<std::uint64_t>(key, "an array of integers of 0 or more", to_integer<std::uint64_t>{});
}

result<std::vector<float>> gguf_file::get_f32s(std::string_view key) const {
  return numbers<float>(key, "an array of floating-point numbers", to_float{});
}

result<std::vector<bool>> gguf_file::get_bools(std::string_view key) const {
  auto found = require(key);
  if (!found) return found.take_error();
  const gguf_entry& e = **found;
  if (e.type != gguf_type::array || e.element != gguf_type::boolean) return wrong_type(e, "an array of true and false");
  std::vector<bool> out;
  out.reserve(e.payload.size());
  for (std::byte b : e.payload) {
    const auto v = truth(b);
    if (!v) return wrong_type(e, "an array of true and false");
    out.push_back(*v);
  }
  return out;
}

}  // namespace troupe::format
