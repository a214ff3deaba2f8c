#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.hpp"
#include "src/text/jinja_limits.hpp"

namespace troupe::text::jinja {

/// How text around tags is treated. The defaults are those with which transformers renders chat templates
/// (ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)); plain Jinja has both off.
struct options {
  bool trim_blocks = true;             ///< the newline behind a block tag or comment goes
  bool lstrip_blocks = true;           ///< white space before a block tag goes if it stands first in its line
  bool keep_trailing_newline = false;  ///< else one newline at the end of the source goes
  limits bounds;
};

enum class token_kind : std::uint8_t {
  data,
  variable_begin,
  variable_end,
  block_begin,
  block_end,
  name,
  string,
  integer,
  real,
  op,
  end,
};

struct token {
  token_kind kind;
  std::uint32_t line;
  std::string text;  ///< of data, names, strings (unescaped) and operators
  std::int64_t integer = 0;
  double real = 0;

  bool is_op(std::string_view s) const { return kind == token_kind::op && text == s; }
  bool is_name(std::string_view s) const { return kind == token_kind::name && text == s; }
};

/// The tokens of a template, ended by one of kind `end`. Comments are gone, white space control is applied.
/// Fails with invalid_file and a line number.
result<std::vector<token>> tokenize(std::string_view source, const options& how);

failure syntax_error(std::uint32_t line, std::string_view what);

}  // namespace troupe::text::jinja
