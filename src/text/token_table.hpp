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
  /// `no_token` if there is none. Model bytes are `bytes`, but in metaspace spelling they keep U+2581.
  token_id find(std::string_view model_bytes) const noexcept {
    return find(model_bytes, hash_bytes(model_bytes));
  }
  token_id find(std::string_view model_bytes, std::uint64_t hash) const noexcept {
    const auto tag = static_cast<std::uint32_t>(hash);
    for (std::size_t at = hash >> shift_;; at = (at + 1) & (slots_.size() - 1)) {
      const slot& s = slots_[at];
      if (s.id == no_token) return no_token;
      if (s.tag == tag && model_text(s.id) == model_bytes) return s.id;
    }
  }
  /// The longest text that `find` can know, in bytes.
  std::size_t longest() const noexcept { return longest_; }

  /// Appends what the file's spelling of a part of a token means to `find`.
  void append_model_bytes(std::string_view written, std::string& out) const;

 private:
  struct slot {
    std::uint32_t tag = 0;
    token_id id = no_token;
  };

  std::string_view model_text(token_id id) const noexcept {
    if (model_ends_.empty()) return bytes(id);
    const std::size_t begin = id == 0 ? 0 : model_ends_[static_cast<std::size_t>(id) - 1];
    return std::string_view(model_arena_).substr(begin, model_ends_[static_cast<std::size_t>(id)] - begin);
  }
  void index(token_id);

  spelling spelling_ = spelling::plain;
  std::string arena_;  // of bytes(); ends_[i] is where token i's end
  std::vector<std::uint32_t> ends_;
  std::string model_arena_;  // metaspace spelling only: the texts as written
  std::vector<std::uint32_t> model_ends_;
  std::vector<token_type> types_;
  std::vector<slot> slots_;
  int shift_ = 0;
  std::size_t longest_ = 0;
};

/// U+2581, sentencepiece's visible space.
inline constexpr std::string_view metaspace = "\xE2\x96\x81";

}  // namespace troupe::text
