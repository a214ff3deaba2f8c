#include "src/text/split_pattern.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <new>
#include <optional>

namespace troupe::text {
namespace {

constexpr std::size_t longest_expression = 16384;
constexpr std::uint32_t most_steps = 50'000'000;
constexpr std::uint32_t most_heap_kib = 64 * 1024;

pcre2_code* code_of(void* p) { return static_cast<pcre2_code*>(p); }

// PCRE2's \s adds U+180E to White_Space; the class also keeps ASCII text on the fast path of a bitmap.
constexpr std::string_view white_space =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

// Writes an expression for PCRE2: replaces \s and \S, which mean something slightly different there. Sets within sets
// and their intersections, which PCRE2 does not have, give nothing.
std::optional<std::string> translate(std::string_view expression) {
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c == '\\' && i + 1 < expression.size()) {
      const char next = expression[++i];
      if (next == 's') {
        if (in_class)
          out.append(white_space);
        else
          out.append("[").append(white_space).append("]");
      } else if (next == 'S' && !in_class) {
        out.append("[^").append(white_space).append("]");
      } else if (next == 'S') {
        out.append(R"(\P{White_Space})");
      } else {
        out.push_back(c);
        out.push_back(next);
      }
      continue;
    }
    if ((c == '[' || (c == '&' && expression.substr(i).starts_with("&&"))) && in_class) return std::nullopt;
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out.push_back(c);
  }
  return out;
}

std::string reason(int code) {
  PCRE2_UCHAR buffer[160];
  if (pcre2_get_error_message(code, buffer, sizeof buffer) < 0) return "error " + std::to_string(code);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

split_pattern::workspace::workspace()
    : match_data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
  if (!match_data_ || !context_) {
    pcre2_match_data_free(static_cast<pcre2_match_data*>(match_data_));
    pcre2_match_context_free(static_cast<pcre2_match_context*>(context_));
    throw std::bad_alloc();
  }
  auto* context = static_cast<pcre2_match_context*>(context_);
  pcre2_set_match_limit(context, most_steps);
  pcre2_set_heap_limit(context, most_heap_kib);
}

split_pattern::workspace::workspace(workspace&& other) noexcept
    : match_data_(other.match_data_), context_(other.context_) {
  other.match_data_ = nullptr;
  other.context_ = nullptr;
}

split_pattern::workspace::~workspace() {
  pcre2_match_data_free(static_cast<pcre2_match_data*>(match_data_));
  pcre2_match_context_free(static_cast<pcre2_match_context*>(context_));
}

result<std::shared_ptr<const split_pattern>> split_pattern::make(std::string_view expression) {
  if (expression.size() > longest_expression)
    return failure(errc::invalid_file, "a pre-tokenizer expression has " + std::to_string(expression.size()) +
                                           " bytes: at most " + std::to_string(longest_expression) + " are possible");
  const auto translation = translate(expression);
  if (!translation)
    return failure(errc::unsupported, "the pre-tokenizer expression \"" + std::string(expression) +
                                          "\" has a character class within a class, which is not supported");
  const std::string& translated = *translation;
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context, 100);
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, context);
  pcre2_compile_context_free(context);
  if (!code)
    return failure(errc::invalid_file, "the pre-tokenizer expression \"" + translated +
                                           "\" is not understood at byte " + std::to_string(at) + ": " + reason(error));
  return std::shared_ptr<const split_pattern>(new split_pattern(std::string(expression), code));
}

split_pattern::~split_pattern() { pcre2_code_free(code_of(code_)); }

result<std::optional<split_pattern::span>> split_pattern::find(std::string_view text, std::size_t from,
                                                               workspace& work) const {
  // Where machine code cannot be made (hardened systems), PCRE2 interprets.
  std::call_once(machine_code_, [this] { pcre2_jit_compile(code_of(code_), PCRE2_JIT_COMPLETE); });
  auto* data = static_cast<pcre2_match_data*>(work.match_data_);
  auto* context = static_cast<pcre2_match_context*>(work.context_);
  const auto search = [&](std::uint32_t flags) {
    return pcre2_match(code_of(code_), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                       PCRE2_NO_UTF_CHECK | flags, data, context);
  };
  int status = search(0);
  if (status == PCRE2_ERROR_JIT_STACKLIMIT)
    status = search(PCRE2_NO_JIT);  // the interpreter keeps its state on the heap
  if (status == PCRE2_ERROR_NOMATCH) return std::optional<span>();
  if (status < 0)
    return failure(errc::unsupported, "splitting the text into words failed (" + reason(status) +
                                          "): break up very long runs of one kind of character");
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data);
  return std::optional<span>({bounds[0], bounds[1]});
}

}  // namespace troupe::text
