#pragma once
#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <string_view>
#include <variant>
#include <vector>

#include "src/base/ids.hpp"
#include "src/base/result.hpp"
#include "src/text/token_table.hpp"

namespace troupe::text {

/// What joins two neighbours: a lower rank goes first.
struct merge {
  std::uint32_t rank;
  token_id id;
};
inline constexpr std::uint32_t no_merge = UINT32_MAX;

/// Merges listed as pairs of tokens, in the order of their ranks.
class pair_merges {
 public:
  static constexpr std::size_t most = (std::size_t{1} << 24) - 1;

  struct entry {
    token_id left, right, merged;
  };
  /// At most `most` entries; of equal pairs the first counts.
  explicit pair_merges(std::vector<entry>);
  merge find(token_id left, token_id right) const noexcept {
    const std::uint64_t h = hash(left, right);
    for (std::size_t at = h >> shift_;; at = (at + 1) & (slots_.size() - 1)) {
      const std::uint32_t s = slots_[at];
      if (s == empty_slot) return {no_merge, no_token};
      if (s >> 24 != (h & 0xFF)) continue;
      const entry& e = entries_[s & rank_mask];
      if (e.left == left && e.right == right) return {s & rank_mask, e.merged};
    }
  }

 private:
  // A slot of the hash table: 24 bits of rank and 8 bits of hash. Small slots keep the table in the processor's cache.
  static constexpr std::uint32_t rank_mask = 0xFFFFFF;
  static constexpr std::uint32_t empty_slot = 0xFFFFFFFF;

  static std::uint64_t hash(token_id l, token_id r) noexcept {
    const std::uint64_t key =
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(l)) << 32 | static_cast<std::uint32_t>(r);
    const auto wide = static_cast<unsigned __int128>(key) * 0x9E3779B97F4A7C15u;
    return static_cast<std::uint64_t>(wide) ^ static_cast<std::uint64_t>(wide >> 64);
  }

  std::vector<entry> entries_;
  std::vector<std::uint32_t> slots_;
  int shift_;
};

/// Merges implied by the tokens: two neighbours join if their text together is one, better scores first.
struct score_merges {
  std::vector<std::uint32_t> ranks;  ///< by token id
  /// Ranks from scores, which must not be NaN.
  explicit score_merges(const std::vector<float>& scores);
};

/// Byte-pair encoding of one piece of text: a stage of a tokenizer.
///
/// Work is O(n log n) in the bytes of the piece: pieces of up to `short_piece` symbols are merged by scanning, longer
/// ones with a priority queue.
class bpe {
 public:
  struct options {
    bool bytes = true;            ///< symbols are bytes, not characters
    bool ignore_merges = false;   ///< a piece that is a token stays whole, whatever the merges would give
    bool whole_newlines = false;  ///< the same, but for pieces of nothing but '\n'
    bool fuse_unknown = false;    ///< neighbouring unknown characters become one token
    token_id unknown = no_token;  ///< for what has no token; `no_token`: it is dropped
    /// With byte symbols the token of each byte; else the tokens that spell a character that has no token of its own
    /// (used if all its bytes have one). `no_token` where there is none.
    std::array<token_id, 256> byte_tokens = no_bytes();
    static constexpr std::array<token_id, 256> no_bytes() {
      std::array<token_id, 256> a{};
      for (auto& id : a) id = no_token;
      return a;
    }
  };
  using merge_source = std::variant<pair_merges, score_merges>;

  bpe(std::shared_ptr<const token_table>, merge_source, options);

  /// Working memory to be used again and again, and what was done with it (for tests of the bound).
  struct scratch {
    std::uint64_t lookups = 0;  ///< searches for a merge
    std::uint64_t queued = 0;   ///< entries put into the priority queue

   private:
    friend class bpe;
    struct symbol {
      std::uint32_t begin, size;  // bytes of the piece; size 0: merged away
      token_id id;                // no_token: a character without a token
      std::int32_t previous, next;
    };
    struct candidate {
      std::uint32_t rank, left, size;
      token_id id;
    };
    std::vector<symbol> symbols;
    std::vector<candidate> queue;
  };
  static constexpr std::size_t short_piece = 40;

  /// Appends the tokens of `piece`, which is valid UTF-8 of less than 2 GiB.
  void encode(std::string_view piece, scratch&, std::vector<token_id>& out) const;

  const token_table& tokens() const noexcept { return *tokens_; }

 private:
  void split(std::string_view piece, scratch&) const;
  template <class Source>
  void merge_short(std::string_view piece, const Source&, scratch&) const;
  template <class Source>
  void merge_long(std::string_view piece, const Source&, scratch&) const;
  merge find(const pair_merges&, std::string_view, const scratch::symbol&, const scratch::symbol&) const noexcept;
  merge find(const score_merges&, std::string_view, const scratch::symbol&, const scratch::symbol&) const noexcept;
  bool spell(std::string_view character, std::vector<token_id>& out) const;

  std::shared_ptr<const token_table> tokens_;
  merge_source merges_;
  options options_;
};

/// Builds the merge table of a vocabulary's list. Entries that name tokens which the vocabulary lacks can never apply
/// and are left out.
result<pair_merges> read_merges(const vocabulary&, const token_table&);

}  // namespace troupe::text
