#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/ids.hpp"
#include "src/base/result.hpp"
#include "src/text/vocabulary.hpp"

namespace troupe::text {

/// Hash of a short byte string. Not for adversaries: a model file can only slow down its own loading.
inline std::uint64_t hash_bytes(std::string_view s) noexcept {
  constexpr std::uint64_t multiplier = 0x9E3779B97F4A7C15u;
  const auto mix = [](std::uint64_t a) {
    const auto wide = static_cast<unsigned __int128>(a) * multiplier;
    return static_cast<std::uint64_t>(wide) ^ static_cast<std::uint64_t>(wide >> 64);
  };
  std::uint64_t h = s.size() * 0xD6E8FEB86659FD93u;
  const char* p = s.data();
  std::size_t left = s.size();
  for (; left > 8; p += 8, left -= 8) {
    std::uint64_t block;
    std::memcpy(&block, p, 8);
    h = mix(h ^ block);
  }
  std::uint64_t last = 0;
  if (left >= 4) {
    std::uint32_t low, high;
    std::memcpy(&low, p, 4);
    std::memcpy(&high, p + left - 4, 4);
    last = static_cast<std::uint64_t>(high) << 32 | low;
  } else if (left > 0) {
    last = static_cast<unsigned char>(p[0]) | static_cast<unsigned char>(p[left / 2]) << 8 |
           static_cast<unsigned char>(p[left - 1]) << 16;
  }
  return mix(mix(h ^ last) + 1);
}

/// Equality of short byte strings without a call.
inline bool same_bytes(std::string_view a, std::string_view b) noexcept {
  if (a.size() != b.size()) return false;
  const auto differ = [&]<class Word>(Word, std::size_t at) {
    Word x, y;
    std::memcpy(&x, a.data() + at, sizeof x);
    std::memcpy(&y, b.data() + at, sizeof y);
    return x != y;
  };
  const std::size_t n = a.size();
  if (n > 16) return std::memcmp(a.data(), b.data(), n) == 0;
  if (n >= 8) return !differ(std::uint64_t{}, 0) && !differ(std::uint64_t{}, n - 8);
  if (n >= 4) return !differ(std::uint32_t{}, 0) && !differ(std::uint32_t{}, n - 4);
  if (n >= 2) return !differ(std::uint16_t{}, 0) && !differ(std::uint16_t{}, n - 2);
  return n == 0 || a[0] == b[0];
}

/// The tokens of a vocabulary as the bytes they stand for, and the way back. Owns its memory.
///
/// Bytes: of a byte-level token those its text spells, of a sentencepiece token its text with spaces for U+2581, of a
/// byte token that byte, of an unused token none; control, unknown and user-defined tokens stand for their own text.
class token_table {
 public:
  /// How the file writes its tokens.
  enum class spelling : std::uint8_t { byte_alphabet, metaspace, plain };

  /// Fails with `invalid_file` if the lists disagree in length or exceed their limits.
  static result<token_table> make(const vocabulary&, spelling);

  std::size_t size() const noexcept { return types_.size(); }
  bool contains(token_id id) const noexcept { return id >= 0 && static_cast<std::size_t>(id) < size(); }

  /// What the token stands for; empty for an id outside the vocabulary.
  std::string_view bytes(token_id id) const noexcept {
    if (!contains(id)) return {};
    const std::size_t begin = id == 0 ? 0 : ends_[static_cast<std::size_t>(id) - 1];
    return std::string_view(arena_).substr(begin, ends_[static_cast<std::size_t>(id)] - begin);
  }
  token_type type(token_id id) const noexcept {
    return contains(id) ? types_[static_cast<std::size_t>(id)] : token_type::unused;
  }

  /// The normal token (else the user-defined one) that text is made of: of several with these model bytes the first;
  /// `no_token` if there is none. Model bytes are what `bytes` gives, but in metaspace spelling they keep U+2581.
  token_id find(std::string_view text) const noexcept { return find(text, hash_bytes(text)); }
  token_id find(std::string_view text, std::uint64_t hash) const noexcept {
    for (std::size_t at = hash >> shift_;; at = (at + 1) & (slots_.size() - 1)) {
      const std::uint32_t s = slots_[at];
      if (s == empty_slot) return no_token;
      const auto id = static_cast<token_id>(s & id_mask);
      if (s >> 24 == (hash & 0xFF) && same_bytes(text_of(id), text)) return id;
    }
  }
  /// Tells the processor that `find` with this hash comes soon.
  void prefetch(std::uint64_t hash) const noexcept { __builtin_prefetch(&slots_[hash >> shift_]); }
  /// The longest text that `find` can know, in bytes.
  std::size_t longest() const noexcept { return longest_; }

  /// Appends what the file's spelling of a part of a token means to `find`.
  void append_model_bytes(std::string_view written, std::string& out) const;
  /// How many bytes that would be, for a part of a normal token that stands in the table.
  std::size_t model_size(std::string_view written) const noexcept {
    if (spelling_ != spelling::byte_alphabet) return written.size();
    std::size_t n = 0;  // characters
    for (const char c : written) n += (c & 0xC0) != 0x80;
    return n;
  }
  /// What `find` knows the token by; empty for an id outside the vocabulary.
  std::string_view model_bytes(token_id id) const noexcept { return contains(id) ? text_of(id) : std::string_view(); }

 private:
  // A slot of the hash table: 24 bits of id and 8 bits of hash. Small slots keep the table in the processor's cache.
  static constexpr std::uint32_t id_mask = 0xFFFFFF;
  static constexpr std::uint32_t empty_slot = 0xFFFFFFFF;

  std::string_view text_of(token_id id) const noexcept {
    const auto i = static_cast<std::size_t>(id);
    const bool own = !model_ends_.empty();
    const std::uint32_t* ends = own ? model_ends_.data() : ends_.data();
    const std::size_t begin = i == 0 ? 0 : ends[i - 1];
    return {(own ? model_arena_ : arena_).data() + begin, ends[i] - begin};
  }
  void index(token_type);

  spelling spelling_ = spelling::plain;
  std::string arena_;  // of bytes(); ends_[i] is where token i's end
  std::vector<std::uint32_t> ends_;
  std::string model_arena_;  // metaspace spelling only: the texts as written
  std::vector<std::uint32_t> model_ends_;
  std::vector<token_type> types_;
  std::vector<std::uint32_t> slots_;
  int shift_ = 0;
  std::size_t longest_ = 0;
};

/// U+2581, sentencepiece's visible space.
inline constexpr std::string_view metaspace = "\xE2\x96\x81";

}  // namespace troupe::text
