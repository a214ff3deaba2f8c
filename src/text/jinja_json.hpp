#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "src/text/jinja_runtime.hpp"

namespace troupe::text::jinja {

/// JSON as Python's json.loads reads it: integers of any size stay exact, doubles are read correctly rounded, of equal
/// keys the last wins. `what` names the text in errors (invalid_argument).
result<value> parse_json(std::string_view text, std::string_view what, const limits& bounds = {});

struct json_style {
  bool ascii = false;                 ///< escape all but ASCII
  std::optional<std::string> indent;  ///< one level of indentation; absent: one line
  std::string item_separator = ", ", key_separator = ": ";
  bool sort_keys = false;
};

/// Python's json.dumps.
std::string to_json(runtime& rt, const value& v, const json_style& style);
/// The filter tojson of transformers, which escapes no HTML.
value tojson(runtime& rt, const value& v, const call_args& args);

}  // namespace troupe::text::jinja
