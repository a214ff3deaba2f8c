#include "src/text/pre_tokenizer.hpp"

#include "src/text/token_table.hpp"
#include "src/text/utf8.hpp"

namespace troupe::text {

result<void> pre_tokenizer::operator()(std::string_view text, bool at_start, scratch& s) const {
  s.pieces.clear();
  s.rewritten.clear();
  if (text.empty()) return {};
  s.pieces.push_back(text);
  for (const pre_tokenizer_step& step : steps_) {
    s.next.clear();
    bool first = at_start;
    for (const std::string_view piece : s.pieces) {
      auto done = std::visit([&](const auto& st) { return apply(st, piece, first, s); }, step);
      if (!done) return done;
      first = false;
    }
    s.pieces.swap(s.next);
  }
  return {};
}

result<void> pre_tokenizer::apply(const split_step& step, std::string_view text, bool, scratch& s) const {
  using behavior = split_step::behavior;
  const auto push = [&](std::size_t begin, std::size_t end) {
    if (end > begin) s.next.push_back(text.substr(begin, end - begin));
  };
  // Cuts from `done` on: first what lies before the match, then the match itself.
  std::size_t done = 0;
  if (step.keep == behavior::isolated) {
    for (std::size_t from = 0; from < text.size();) {
      auto found = step.pattern->find(text, from, s.work);
      if (!found) return found.take_error();
      if (!*found) break;
      const auto [begin, end] = **found;
      push(done, begin);
      push(begin, end);
      done = end;
      from = end > begin || end == text.size() ? end : end + utf8_size(text[end]);  // an empty match must not repeat
    }
    push(done, text.size());
    return {};
  }

  // The other behaviors look at neighbours: collect alternating stretches first.
  struct stretch {
    std::size_t begin, end;
    bool match;
  };
  std::vector<stretch> stretches;
  const auto add = [&](std::size_t begin, std::size_t end, bool match) {
    if (end > begin) stretches.push_back({begin, end, match != step.invert});
  };
  for (std::size_t from = 0; from < text.size();) {
    auto found = step.pattern->find(text, from, s.work);
    if (!found) return found.take_error();
    if (!*found) break;
    const auto [begin, end] = **found;
    add(done, begin, false);
    add(begin, end, true);
    done = end;
    from = end > begin || end == text.size() ? end : end + utf8_size(text[end]);  // an empty match must not repeat
  }
  add(done, text.size(), false);
  for (std::size_t i = 0; i < stretches.size(); ++i) {
    const stretch& now = stretches[i];
    const bool more = i + 1 < stretches.size();
    switch (step.keep) {
      case behavior::removed:
        if (!now.match) push(now.begin, now.end);
        break;
      case behavior::merged_with_previous:
        if (!now.match && more && stretches[i + 1].match)
          push(now.begin, stretches[++i].end);
        else
          push(now.begin, now.end);
        break;
      case behavior::merged_with_next:
        if (now.match && more && !stretches[i + 1].match)
          push(now.begin, stretches[++i].end);
        else
          push(now.begin, now.end);
        break;
      case behavior::contiguous: {
        std::size_t end = now.end;
        while (i + 1 < stretches.size() && stretches[i + 1].match == now.match) end = stretches[++i].end;
        push(now.begin, end);
        break;
      }
      case behavior::isolated:
        break;
    }
  }
  return {};
}

result<void> pre_tokenizer::apply(const digits_step& step, std::string_view text, bool, scratch& s) const {
  std::size_t begin = 0, at = 0;
  const auto cut = [&](std::size_t end) {
    if (end > begin) s.next.push_back(text.substr(begin, end - begin));
    begin = end;
  };
  bool in_number = false;
  while (at < text.size()) {
    const std::size_t size = utf8_size(text[at]);
    const bool number = is_numeric(size == 1 ? static_cast<char32_t>(text[at]) : decode_utf8(text.substr(at)));
    if (number != in_number || (number && step.individual)) cut(at);
    in_number = number;
    at += size;
  }
  cut(at);
  return {};
}

result<void> pre_tokenizer::apply(const digit_groups_step& step, std::string_view text, bool, scratch& s) const {
  std::size_t begin = 0;
  const auto cut = [&](std::size_t end) {
    if (end > begin) s.next.push_back(text.substr(begin, end - begin));
    begin = end;
  };
  const auto at_digit = [&](std::size_t at) { return at < text.size() && is_digit(decode_utf8(text.substr(at))); };
  for (std::size_t at = 0; at < text.size();) {
    if (!at_digit(at)) {
      at += utf8_size(text[at]);
      continue;
    }
    std::size_t end = at, n = 0;
    for (; at_digit(end); ++n) end += utf8_size(text[end]);
    if (step.before_full_groups || end == text.size() || !is_word(decode_utf8(text.substr(end)))) {
      if (!step.before_full_groups) cut(at);
      for (; at < end; --n, at += utf8_size(text[at]))
        if (n % 3 == 0) cut(at);
      if (!step.before_full_groups) cut(end);
    }
    at = end;
  }
  cut(text.size());
  return {};
}

result<void> pre_tokenizer::apply(const metaspace_words_step&, std::string_view text, bool, scratch& s) const {
  std::size_t begin = 0;
  std::size_t after_last = 0;  // end of the last U+2581 seen
  for (std::size_t at = text.find(metaspace); at != text.npos; at = text.find(metaspace, after_last)) {
    if (at > begin && at != after_last) {
      s.next.push_back(text.substr(begin, at - begin));
      begin = at;
    }
    after_last = at + metaspace.size();
  }
  s.next.push_back(text.substr(begin));
  return {};
}

result<void> pre_tokenizer::apply(const metaspace_step& step, std::string_view text, bool at_start, scratch& s) const {
  std::string rewritten;
  using prepend = metaspace_step::prepend;
  const bool wanted = step.scheme == prepend::always || (step.scheme == prepend::first && at_start);
  if (wanted && text[0] != ' ' && !text.starts_with(metaspace)) rewritten.append(metaspace);
  for (const char c : text) {
    if (c == ' ')
      rewritten.append(metaspace);
    else
      rewritten.push_back(c);
  }
  s.rewritten.push_back(std::move(rewritten));
  const std::string_view whole = s.rewritten.back();
  if (!step.split) {
    s.next.push_back(whole);
    return {};
  }
  std::size_t begin = 0;
  for (std::size_t at = whole.find(metaspace, 1); at != whole.npos; at = whole.find(metaspace, at + 1)) {
    s.next.push_back(whole.substr(begin, at - begin));
    begin = at;
  }
  s.next.push_back(whole.substr(begin));
  return {};
}

}  // namespace troupe::text
