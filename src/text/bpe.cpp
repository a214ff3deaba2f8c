#include "src/text/bpe.hpp"

#include <algorithm>
#include <cmath>

#include "src/text/utf8.hpp"

namespace troupe::text {

pair_merges::pair_merges(std::vector<entry> entries)
    : entries_(std::move(entries)),
      slots_(std::bit_ceil(std::max<std::size_t>(16, 2 * entries_.size() + 1)), empty_slot),
      shift_(64 - std::countr_zero(slots_.size())) {
  constexpr std::size_t ahead = 8;  // slots are fetched before their use: the table is too large for the nearest caches
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (i + ahead < entries_.size()) {
      const entry& soon = entries_[i + ahead];
      __builtin_prefetch(&slots_[hash(soon.left, soon.right) >> shift_], 1);
    }
    const auto [left, right, merged] = entries_[i];
    const std::uint64_t h = hash(left, right);
    std::size_t at = h >> shift_;
    const auto differs = [&](std::uint32_t slot) {
      const entry& e = entries_[slot & rank_mask];
      return slot >> 24 != (h & 0xFF) || e.left != left || e.right != right;
    };
    while (slots_[at] != empty_slot && differs(slots_[at])) at = (at + 1) & (slots_.size() - 1);
    if (slots_[at] == empty_slot)
      slots_[at] = static_cast<std::uint32_t>(h & 0xFF) << 24 | static_cast<std::uint32_t>(i);
  }
}

score_merges::score_merges(const std::vector<float>& scores) : ranks(scores.size()) {
  for (std::size_t i = 0; i < scores.size(); ++i) {
    // Floats order like their bits with the sign folded; the complement puts the best score first. -0 counts as 0.
    const auto bits = std::bit_cast<std::uint32_t>(scores[i] + 0.0f);
    ranks[i] = ~(bits & 0x80000000u ? ~bits : bits | 0x80000000u);
  }
}

result<pair_merges> read_merges(const vocabulary& vocab, const token_table& tokens) {
  if (vocab.merges.size() > pair_merges::most)
    return failure(errc::invalid_file, "the vocabulary has " + std::to_string(vocab.merges.size()) +
                                           " merges: at most " + std::to_string(pair_merges::most) + " are possible");
  std::vector<pair_merges::entry> entries;
  entries.reserve(vocab.merges.size());

  // In blocks, so that the slots of the token table are on their way before they are looked at.
  struct pending {
    std::string_view left, right;  // as model bytes
    std::uint64_t left_hash, right_hash;
    token_id merged;
  };
  constexpr std::size_t block = 16;
  std::array<pending, block> waiting;
  std::array<std::string, block> spelled;
  token_id guess = 0;
  for (std::size_t first = 0; first < vocab.merges.size(); first += block) {
    const std::size_t n = std::min(block, vocab.merges.size() - first);
    for (std::size_t i = 0; i < n; ++i) {
      const merge_text& m = vocab.merges[first + i];
      pending& p = waiting[i];
      // Vocabularies list merged tokens in the order of their merges, so the next id is nearly always right, and its
      // bytes need no spelling out.
      const std::string_view written = tokens.contains(guess) ? vocab.tokens[static_cast<std::size_t>(guess)] : "";
      const std::string_view whole = tokens.model_bytes(guess);
      const std::size_t middle = tokens.model_size(m.left);
      if (written.size() == m.left.size() + m.right.size() && same_bytes(written.substr(0, m.left.size()), m.left) &&
          same_bytes(written.substr(m.left.size()), m.right) && tokens.type(guess) == token_type::normal &&
          middle + tokens.model_size(m.right) == whole.size()) {
        p = {whole.substr(0, middle), whole.substr(middle), 0, 0, guess};
      } else {
        std::string& text = spelled[i];
        text.clear();
        tokens.append_model_bytes(m.left, text);
        const std::size_t left_size = text.size();
        tokens.append_model_bytes(m.right, text);
        const std::string_view both = text;
        p = {both.substr(0, left_size), both.substr(left_size), 0, 0, tokens.find(both)};
      }
      guess = p.merged + 1;
      p.left_hash = hash_bytes(p.left);
      p.right_hash = hash_bytes(p.right);
      tokens.prefetch(p.left_hash);
      tokens.prefetch(p.right_hash);
    }
    for (std::size_t i = 0; i < n; ++i) {
      const pending& p = waiting[i];
      const token_id left = tokens.find(p.left, p.left_hash), right = tokens.find(p.right, p.right_hash);
      if (left != no_token && right != no_token && p.merged != no_token) entries.push_back({left, right, p.merged});
    }
  }
  return pair_merges(std::move(entries));
}

bpe::bpe(std::shared_ptr<const token_table> tokens, merge_source merges, options o)
    : tokens_(std::move(tokens)), merges_(std::move(merges)), options_(o) {}

merge bpe::find(const pair_merges& merges, std::string_view, const scratch::symbol& l,
                const scratch::symbol& r) const noexcept {
  if (l.id == no_token || r.id == no_token) return {no_merge, no_token};
  return merges.find(l.id, r.id);
}

merge bpe::find(const score_merges& merges, std::string_view piece, const scratch::symbol& l,
                const scratch::symbol& r) const noexcept {
  const std::size_t size = std::size_t{l.size} + r.size;
  if (size > tokens_->longest()) return {no_merge, no_token};  // bounds the hashing: a lookup costs at most one token
  const token_id id = tokens_->find(piece.substr(l.begin, size));
  if (id == no_token) return {no_merge, no_token};
  return {merges.ranks[static_cast<std::size_t>(id)], id};
}

void bpe::split(std::string_view piece, scratch& s) const {
  s.symbols.clear();
  const auto push = [&](std::size_t begin, std::size_t size, token_id id) {
    const auto at = static_cast<std::int32_t>(s.symbols.size());
    s.symbols.push_back({static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(size), id, at - 1, at + 1});
  };
  if (options_.bytes) {
    for (std::size_t i = 0; i < piece.size(); ++i)
      push(i, 1, options_.byte_tokens[static_cast<unsigned char>(piece[i])]);
  } else {
    for (std::size_t i = 0; i < piece.size();) {
      const std::size_t size = utf8_size(piece[i]);
      push(i, size, tokens_->find(piece.substr(i, size)));
      i += size;
    }
  }
  s.symbols.back().next = -1;
}

template <class Source>
void bpe::merge_short(std::string_view piece, const Source& source, scratch& s) const {
  // Symbols stay contiguous; best[i] joins symbols i and i + 1.
  auto& symbols = s.symbols;
  std::array<merge, short_piece> best;
  std::size_t n = symbols.size();
  for (std::size_t i = 0; i + 1 < n; ++i) best[i] = find(source, piece, symbols[i], symbols[i + 1]);
  s.lookups += n - 1;
  for (;;) {
    std::size_t at = 0;
    std::uint32_t rank = no_merge;
    for (std::size_t i = 0; i + 1 < n; ++i) {
      if (best[i].rank < rank) {
        rank = best[i].rank;
        at = i;
      }
    }
    if (rank == no_merge) break;
    symbols[at].size += symbols[at + 1].size;
    symbols[at].id = best[at].id;
    --n;
    for (std::size_t i = at + 1; i < n; ++i) {
      symbols[i] = symbols[i + 1];
      best[i - 1] = best[i];
    }
    if (at > 0) best[at - 1] = find(source, piece, symbols[at - 1], symbols[at]);
    if (at + 1 < n) best[at] = find(source, piece, symbols[at], symbols[at + 1]);
    s.lookups += 2;
  }
  symbols.resize(n);
}

template <class Source>
void bpe::merge_long(std::string_view piece, const Source& source, scratch& s) const {
  auto& symbols = s.symbols;
  auto& queue = s.queue;
  queue.clear();
  const auto later = [](const scratch::candidate& a, const scratch::candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
  };
  const auto consider = [&](std::int32_t left) -> bool {
    const auto& l = symbols[static_cast<std::size_t>(left)];
    const auto& r = symbols[static_cast<std::size_t>(l.next)];
    ++s.lookups;
    const merge m = find(source, piece, l, r);
    if (m.rank == no_merge) return false;
    queue.push_back({m.rank, static_cast<std::uint32_t>(left), l.size + r.size, m.id});
    ++s.queued;
    return true;
  };
  const auto push = [&](std::int32_t left) {
    if (consider(left)) std::push_heap(queue.begin(), queue.end(), later);
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<std::int32_t>(i));
  std::make_heap(queue.begin(), queue.end(), later);
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), later);
    const auto top = queue.back();
    queue.pop_back();
    auto& l = symbols[top.left];
    if (l.size == 0 || l.next < 0) continue;
    auto& r = symbols[static_cast<std::size_t>(l.next)];
    // Symbols only grow, so an equal sum means that neither of the two has changed since.
    if (l.size + r.size != top.size) continue;
    l.size = top.size;
    l.id = top.id;
    r.size = 0;
    l.next = r.next;
    if (l.next >= 0) symbols[static_cast<std::size_t>(l.next)].previous = static_cast<std::int32_t>(top.left);
    if (l.previous >= 0) push(l.previous);
    if (l.next >= 0) push(static_cast<std::int32_t>(top.left));
  }
  std::erase_if(symbols, [](const auto& symbol) { return symbol.size == 0; });
}

bool bpe::spell(std::string_view character, std::vector<token_id>& out) const {
  for (const char c : character)
    if (options_.byte_tokens[static_cast<unsigned char>(c)] == no_token) return false;
  for (const char c : character) out.push_back(options_.byte_tokens[static_cast<unsigned char>(c)]);
  return true;
}

void bpe::encode(std::string_view piece, scratch& s, std::vector<token_id>& out) const {
  if (piece.empty()) return;
  if (options_.ignore_merges || (options_.whole_newlines && piece.find_first_not_of('\n') == std::string_view::npos)) {
    if (const token_id id = tokens_->find(piece); id != no_token) {
      out.push_back(id);
      return;
    }
  }
  split(piece, s);
  std::visit(
      [&](const auto& source) {
        if (s.symbols.size() <= short_piece)
          merge_short(piece, source, s);
        else
          merge_long(piece, source, s);
      },
      merges_);
  bool after_unknown = false;
  for (const auto& symbol : s.symbols) {
    if (symbol.id != no_token) {
      out.push_back(symbol.id);
    } else if (options_.bytes || !spell(piece.substr(symbol.begin, symbol.size), out)) {
      if (options_.unknown != no_token && !(after_unknown && options_.fuse_unknown)) out.push_back(options_.unknown);
      after_unknown = true;
      continue;
    }
    after_unknown = false;
  }
}

}  // namespace troupe::text
