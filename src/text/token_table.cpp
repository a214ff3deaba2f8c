#include "src/text/token_table.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "src/text/byte_alphabet.hpp"

namespace troupe::text {
namespace {

constexpr std::size_t most_tokens = (std::size_t{1} << 24) - 1;  // one id is the mark of an empty slot
constexpr std::size_t most_bytes = std::size_t{1} << 30;

// "<0x0A>", as sentencepiece names byte tokens.
std::optional<char> byte_token(std::string_view written) {
  if (written.size() != 6 || !written.starts_with("<0x") || written[5] != '>') return std::nullopt;
  unsigned value = 0;
  for (const char c : written.substr(3, 2)) {
    const unsigned digit = c >= '0' && c <= '9'   ? static_cast<unsigned>(c - '0')
                           : c >= 'A' && c <= 'F' ? static_cast<unsigned>(c - 'A' + 10)
                           : c >= 'a' && c <= 'f' ? static_cast<unsigned>(c - 'a' + 10)
                                                  : 256u;
    if (digit == 256u) return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<char>(value);
}

void append_with_spaces(std::string_view written, std::string& out) {
  for (std::size_t at = 0;;) {
    const std::size_t next = written.find(metaspace, at);
    out.append(written.substr(at, next - at));
    if (next == written.npos) return;
    out.push_back(' ');
    at = next + metaspace.size();
  }
}

}  // namespace

void token_table::append_model_bytes(std::string_view written, std::string& out) const {
  if (spelling_ != spelling::byte_alphabet || !append_alphabet_bytes(written, out)) out.append(written);
}

void token_table::index(token_type wanted) {
  // Slots are fetched some tokens ahead of their use: the table is too large for the nearest caches.
  constexpr std::size_t ahead = 8;
  std::array<std::uint64_t, ahead> hashes;
  const std::size_t n = size();
  const auto prepare = [&](std::size_t i) {
    if (i >= n || types_[i] != wanted) return;
    hashes[i % ahead] = hash_bytes(text_of(static_cast<token_id>(i)));
    prefetch(hashes[i % ahead]);
  };
  for (std::size_t i = 0; i < ahead; ++i) prepare(i);
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t hash = hashes[i % ahead];
    prepare(i + ahead);
    const std::string_view text = text_of(static_cast<token_id>(i));
    if (types_[i] != wanted || text.empty()) continue;
    std::size_t at = hash >> shift_;
    const auto differs = [&](std::uint32_t slot) {
      return slot >> 24 != (hash & 0xFF) || !same_bytes(text_of(static_cast<token_id>(slot & id_mask)), text);
    };
    while (slots_[at] != empty_slot && differs(slots_[at])) at = (at + 1) & (slots_.size() - 1);
    if (slots_[at] != empty_slot) continue;  // of equal texts the first counts
    slots_[at] = static_cast<std::uint32_t>(hash & 0xFF) << 24 | static_cast<std::uint32_t>(i);
    longest_ = std::max(longest_, text.size());
  }
}

result<token_table> token_table::make(const vocabulary& vocab, spelling how) {
  const std::size_t n = vocab.tokens.size();
  if (n == 0 || n > most_tokens)
    return failure(errc::invalid_file, "the vocabulary has " + std::to_string(n) + " tokens: 1 to " +
                                           std::to_string(most_tokens) + " are possible");
  if (!vocab.types.empty() && vocab.types.size() != n)
    return failure(errc::invalid_file, "the vocabulary has " + std::to_string(n) + " tokens but " +
                                           std::to_string(vocab.types.size()) + " token types: the file is damaged");
  std::size_t total = 0;
  for (const std::string_view t : vocab.tokens) total += t.size();
  if (total > most_bytes)
    return failure(errc::invalid_file, "the tokens take " + std::to_string(total) + " bytes: at most " +
                                           std::to_string(most_bytes) + " are possible");

  token_table out;
  out.spelling_ = how;
  out.arena_.reserve(total);
  out.ends_.resize(n);
  if (vocab.types.empty())
    out.types_.assign(n, token_type::normal);
  else
    out.types_ = vocab.types;
  if (how == spelling::metaspace) {
    out.model_arena_.reserve(total);
    out.model_ends_.resize(n);
  }
  for (std::size_t i = 0; i < n; ++i) {
    const std::string_view written = vocab.tokens[i];
    switch (out.types_[i]) {
      case token_type::normal:
        if (how == spelling::byte_alphabet)
          out.append_model_bytes(written, out.arena_);
        else if (how == spelling::metaspace)
          append_with_spaces(written, out.arena_);
        else
          out.arena_.append(written);
        break;
      case token_type::byte:
        if (const auto b = byte_token(written))
          out.arena_.push_back(*b);
        else
          return failure(errc::invalid_file, "token " + std::to_string(i) +
                                                 " is marked as a byte token, but its text is not of the form <0x0A>");
        break;
      case token_type::unused:
        break;
      default:
        if (how == spelling::metaspace)
          append_with_spaces(written, out.arena_);
        else
          out.arena_.append(written);
    }
    out.ends_[i] = static_cast<std::uint32_t>(out.arena_.size());
    if (how == spelling::metaspace) {
      out.model_arena_.append(written);
      out.model_ends_[i] = static_cast<std::uint32_t>(out.model_arena_.size());
    }
  }

  const std::size_t capacity = std::bit_ceil(std::max<std::size_t>(16, 2 * n));
  out.slots_.assign(capacity, empty_slot);
  out.shift_ = 64 - std::countr_zero(capacity);
  out.index(token_type::normal);
  out.index(token_type::user_defined);
  return out;
}

}  // namespace troupe::text
