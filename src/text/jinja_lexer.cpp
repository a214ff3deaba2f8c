#include "src/text/jinja_lexer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "src/text/jinja_strings.hpp"
#include "src/text/jinja_unicode.hpp"

namespace troupe::text::jinja {

failure syntax_error(std::uint32_t line, std::string_view what) {
  return failure(errc::invalid_file, fmt::format("chat template, line {}: {}", line, what));
}

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Jinja's lexer (jinja2/lexer.py) as a scan: text outside of tags, or the inside of one tag, at a time.
class lexer {
 public:
  lexer(std::string source, const options& how) : source_(std::move(source)), how_(how) {}

  result<std::vector<token>> run() {
    while (at_ < source_.size() && !failure_) text_and_tag();
    if (failure_) return std::move(*failure_);
    push(token_kind::end, "");
    return std::move(tokens_);
  }

 private:
  bool fail(std::string_view what) {
    if (!failure_) failure_ = syntax_error(line_, what);
    return false;
  }

  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool ahead(std::string_view s, std::size_t from) const { return source_.compare(from, s.size(), s) == 0; }
  char peek(std::size_t i) const { return i < source_.size() ? source_[i] : '\0'; }

  void push(token_kind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  /// Moves on and counts lines.
  void move_to(std::size_t to) {
    line_ += static_cast<std::uint32_t>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                                   source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    if (to > at_) line_starting_ = source_[to - 1] == '\n';
    at_ = to;
  }

  std::size_t skip_space(std::size_t from) const {
    return source_.size() - uni::strip_left(std::string_view(source_).substr(from)).size();
  }

  /// Text before a tag, after what the tag's sign and lstrip_blocks take from its end.
  std::string_view before_tag(std::string_view text, char sign, bool is_variable) const {
    if (sign == '-') return uni::strip_right(text);
    if (sign == '+' || !how_.lstrip_blocks || is_variable) return text;
    const std::size_t newline = text.rfind('\n');
    const std::size_t start = newline == std::string_view::npos ? 0 : newline + 1;
    if (start == 0 && !line_starting_) return text;
    return uni::strip_left(text.substr(start)).empty() ? text.substr(0, start) : text;
  }

  void push_data(std::string_view text) {
    if (!text.empty()) push(token_kind::data, std::string(text));
  }

  void text_and_tag() {
    std::size_t tag = at_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos) {
        push_data(rest());
        move_to(source_.size());
        return;
      }
      const char c = peek(tag + 1);
      if (c == '%' || c == '{' || c == '#') break;
    }
    const char what = source_[tag + 1];
    const char sign = peek(tag + 2) == '-' || peek(tag + 2) == '+' ? source_[tag + 2] : '\0';
    const std::size_t inside = tag + 2 + (sign ? 1 : 0);
    push_data(before_tag(rest().substr(0, tag - at_), sign, what == '{'));
    std::size_t raw_end = 0;
    if (what == '%' && (raw_end = match_raw(inside)) != 0) {
      move_to(raw_end);
      raw_text();
      return;
    }
    move_to(inside);
    if (what == '#') {
      comment();
    } else if (what == '{') {
      push(token_kind::variable_begin, "");
      tag_inside(false);
    } else {
      push(token_kind::block_begin, "");
      tag_inside(true);
    }
  }

  /// The end of `raw %}` that starts at `from`, else 0. Unlike other block tags it does not take the newline behind it.
  std::size_t match_raw(std::size_t from) const {
    std::size_t i = skip_space(from);
    if (!ahead("raw", i)) return 0;
    i = skip_space(i + 3);
    if (ahead("-%}", i)) return skip_space(i + 3);
    return ahead("%}", i) ? i + 2 : 0;
  }

  /// The end of a closing `%}` or `#}` with its sign at `from`, else 0.
  std::size_t match_close(std::size_t from, std::string_view close) const {
    if (peek(from) == '+' && ahead(close, from + 1)) return from + 3;
    if (peek(from) == '-' && ahead(close, from + 1)) return skip_space(from + 3);
    if (!ahead(close, from)) return 0;
    return from + 2 + (how_.trim_blocks && peek(from + 2) == '\n' ? 1 : 0);
  }

  void raw_text() {
    if (at_ >= source_.size()) return;  // as in Jinja, a tag that ends the template needs no partner
    for (std::size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 1)) {
      // The sign may also be absent although the tag name follows directly.
      const char sign = peek(tag + 2) == '-' || peek(tag + 2) == '+' ? source_[tag + 2] : '\0';
      std::size_t i = skip_space(tag + 2 + (sign ? 1 : 0));
      if (!ahead("endraw", i)) continue;
      const std::size_t end = match_close(skip_space(i + 6), "%}");
      if (end == 0) continue;
      push_data(before_tag(rest().substr(0, tag - at_), sign, false));
      move_to(end);
      return;
    }
    fail("a raw block is not ended: add {% endraw %}");
  }

  void comment() {
    if (at_ >= source_.size()) return;
    const std::size_t hash = source_.find("#}", at_);
    if (hash == std::string::npos) {
      fail("a comment is not ended: add #}");
      return;
    }
    const bool sign = hash > at_ && (source_[hash - 1] == '-' || source_[hash - 1] == '+');
    move_to(match_close(hash - (sign ? 1 : 0), "#}"));
  }

  void tag_inside(bool block) {
    std::string open;  // brackets that wait for their partner: a closing tag mark inside of them is an operator
    while (!failure_) {
      if (at_ >= source_.size()) return;  // the parser reports what is missing
      if (open.empty()) {
        std::size_t end = 0;
        if (block) {
          end = match_close(at_, "%}");
        } else if (ahead("-}}", at_)) {
          end = skip_space(at_ + 3);
        } else if (ahead("}}", at_)) {
          end = at_ + 2;
        }
        if (end != 0) {
          push(block ? token_kind::block_end : token_kind::variable_end, "");
          move_to(end);
          return;
        }
      }
      const std::size_t spaces = skip_space(at_);
      if (spaces != at_) {
        move_to(spaces);
      } else if (!number() && !name() && !string() && !op(open)) {
        std::size_t next = at_;
        uni::decode(source_, next);
        fail(fmt::format("unexpected character '{}'", source_.substr(at_, next - at_)));
      }
    }
  }

  /// The end of `digits` with single underscores between them, as far as `from` when there are none.
  template <class Digit>
  std::size_t digits(std::size_t from, Digit is) const {
    std::size_t i = from;
    while (is(peek(i)) || (i > from && peek(i) == '_' && is(peek(i + 1)))) ++i;
    return i;
  }

  bool number() {
    if (!is_digit(peek(at_))) return false;
    // x.0.1 is x[0][1], so a number behind a dot has no fraction.
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    const std::size_t whole = digits(at_, is_digit);
    std::size_t end = whole;
    if (!after_dot) {
      if (peek(end) == '.' && is_digit(peek(end + 1))) end = digits(end + 1, is_digit);
      if (peek(end) == 'e' || peek(end) == 'E') {
        const std::size_t sign = end + 1 + (peek(end + 1) == '+' || peek(end + 1) == '-' ? 1 : 0);
        if (is_digit(peek(sign))) end = digits(sign, is_digit);
      }
    }
    if (end != whole) return real(end);
    return integer(whole);
  }

  std::string without_underscores(std::size_t from, std::size_t to) const {
    std::string s = source_.substr(from, to - from);
    s.erase(std::remove(s.begin(), s.end(), '_'), s.end());
    return s;
  }

  bool real(std::size_t end) {
    const std::string s = without_underscores(at_, end);
    token t{token_kind::real, line_, ""};
    t.real = parse_real(s);
    tokens_.push_back(std::move(t));
    move_to(end);
    return true;
  }

  bool integer(std::size_t end) {
    int base = 10;
    std::size_t from = at_;
    if (peek(at_) == '0') {
      const char mark = static_cast<char>(peek(at_ + 1) | 0x20);
      const int bases[] = {2, 8, 16};
      const char marks[] = {'b', 'o', 'x'};
      end = digits(at_, [](char c) { return c == '0'; });
      for (int k = 0; k < 3; ++k) {
        if (mark != marks[k]) continue;
        const int b = bases[k];
        auto is = [b](char c) {
          return (is_digit(c) && c - '0' < b) || (b == 16 && (c | 0x20) >= 'a' && (c | 0x20) <= 'f');
        };
        const std::size_t first = at_ + 2 + (peek(at_ + 2) == '_' ? 1 : 0);
        const std::size_t last = digits(first, is);
        if (last == first) continue;
        base = b;
        from = first;
        end = last;
      }
    }
    token t{token_kind::integer, line_, ""};
    const std::string s = without_underscores(from, end);
    if (std::from_chars(s.data(), s.data() + s.size(), t.integer, base).ec != std::errc()) {
      return fail(fmt::format("the number {} does not fit 64 bits", s));
    }
    tokens_.push_back(std::move(t));
    move_to(end);
    return true;
  }

  bool name() {
    std::size_t end = at_;
    while (end < source_.size()) {
      std::size_t next = end;
      const char32_t c = uni::decode(source_, next);
      if (end == at_ ? !uni::is_identifier_start(c) : !uni::is_identifier_part(c)) break;
      end = next;
    }
    if (end == at_) return false;
    push(token_kind::name, source_.substr(at_, end - at_));
    move_to(end);
    return true;
  }

  bool string() {
    const char quote = peek(at_);
    if (quote != '\'' && quote != '"') return false;
    std::size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return false;
    auto text = unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1));
    if (!text) return fail(text.error().message);
    push(token_kind::string, std::move(text).value());
    move_to(end + 1);
    return true;
  }

  bool op(std::string& open) {
    static constexpr std::string_view longer[] = {"//", "**", "==", "!=", ">=", "<="};
    for (std::string_view s : longer) {
      if (ahead(s, at_)) {
        push(token_kind::op, std::string(s));
        move_to(at_ + 2);
        return true;
      }
    }
    const char c = peek(at_);
    if (c == '\0' || std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) return false;
    if (c == '{') open += '}';
    if (c == '(') open += ')';
    if (c == '[') open += ']';
    if (c == '}' || c == ')' || c == ']') {
      if (open.empty()) return fail(fmt::format("unexpected '{}'", c));
      if (open.back() != c) return fail(fmt::format("unexpected '{}', expected '{}'", c, open.back()));
      open.pop_back();
    }
    push(token_kind::op, std::string(1, c));
    move_to(at_ + 1);
    return true;
  }

  std::string source_;
  const options& how_;
  std::size_t at_ = 0;
  std::uint32_t line_ = 1;
  bool line_starting_ = true;
  std::vector<token> tokens_;
  std::optional<failure> failure_;
};

std::string normalize_newlines(std::string_view source, bool keep_trailing_newline) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!keep_trailing_newline && !out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

}  // namespace

result<std::vector<token>> tokenize(std::string_view source, const options& how) {
  if (source.size() > how.bounds.template_bytes) {
    return failure(errc::invalid_file, fmt::format("chat template of {} bytes: the limit template_bytes is {}",
                                                   source.size(), how.bounds.template_bytes));
  }
  if (!uni::valid(source)) return failure(errc::invalid_file, "chat template: not UTF-8: save it as UTF-8");
  return lexer(normalize_newlines(source, how.keep_trailing_newline), how).run();
}

}  // namespace troupe::text::jinja
