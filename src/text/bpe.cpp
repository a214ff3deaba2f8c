#include "src/text/bpe.hpp"

#include <algorithm>
#include <cmath>

#include "src/text/utf8.hpp"

namespace troupe::text {

pair_merges::pair_merges(std::size_t expected)
    : slots_(std::bit_ceil(std::max<std::size_t>(16, 2 * expected + 1))), shift_(64 - std::countr_zero(slots_.size())) {}

void pair_merges::add(token_id left, token_id right, merge m) {
  const std::uint64_t k = key(left, right);
  std::size_t at = slot_of(k);
  for (; slots_[at].key != empty; at = (at + 1) & (slots_.size() - 1))
    if (slots_[at].key == k) return;
  slots_[at] = {k, m};
}

score_merges::score_merges(const std::vector<float>& scores) : ranks(scores.size()) {
  for (std::size_t i = 0; i < scores.size(); ++i) {
    // Floats order like their bits with the sign folded; the complement puts the best score first. -0 counts as 0.
    const auto bits = std::bit_cast<std::uint32_t>(scores[i] + 0.0f);
    ranks[i] = ~(bits & 0x80000000u ? ~bits : bits | 0x80000000u);
  }
}

result<pair_merges> read_merges(const vocabulary& vocab, const token_table& tokens) {
  constexpr std::size_t most_merges = std::size_t{1} << 24;
  if (vocab.merges.size() > most_merges)
    return failure(errc::invalid_file, "the vocabulary has " + std::to_string(vocab.merges.size()) +
                                           " merges: at most " + std::to_string(most_merges) + " are possible");
  pair_merges out(vocab.merges.size());
  std::string text;
  token_id guess = 0;
  for (std::size_t rank = 0; rank < vocab.merges.size(); ++rank) {
    const merge_text& m = vocab.merges[rank];
    text.clear();
    tokens.append_model_bytes(m.left, text);
    const std::size_t middle = text.size();
    tokens.append_model_bytes(m.right, text);
    const std::string_view whole = text;
    const token_id left = tokens.find(whole.substr(0, middle)), right = tokens.find(whole.substr(middle));
    // Vocabularies list merged tokens in the order of their merges, so the next id is nearly always right.
    token_id id = guess;
    if (tokens.type(id) != token_type::normal || tokens.bytes(id) != whole) id = tokens.find(whole);
    if (left == no_token || right == no_token || id == no_token) continue;
    out.add(left, right, {static_cast<std::uint32_t>(rank), id});
    guess = id + 1;
  }
  return out;
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
  if (options_.ignore_merges ||
      (options_.whole_newlines && piece.find_first_not_of('\n') == std::string_view::npos)) {
    if (const token_id id = tokens_->find(piece); id != no_token) {
      out.push_back(id);
      return;
    }
  }
  split(piece, s);
  std::visit(
      [&](const auto& source) {
        if (s.symbols.size() <= short_piece) merge_short(piece, source, s);
        else merge_long(piece, source, s);
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
