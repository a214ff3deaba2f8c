#pragma once
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "src/text/jinja_json.hpp"
#include "src/text/jinja_program.hpp"

namespace jinja_tests {

using troupe::text::jinja::dict_object;
using troupe::text::jinja::kind;
using troupe::text::jinja::value;

inline std::vector<std::string> lines_of(const std::string& name) {
  std::ifstream in(std::string(TROUPE_TEST_DATA) + "/text/" + name, std::ios::binary);
  std::vector<std::string> out;
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

inline value json(std::string_view text) {
  auto v = troupe::text::jinja::parse_json(text, "fixture");
  return v ? *v : value::none();
}

/// Null when there is none.
inline const value* member(const value& v, std::string_view name) { return v.as<dict_object>().find(name); }

inline std::string text_of(const value& v, std::string_view name) {
  const value* m = member(v, name);
  return m && m->is_string() ? m->text() : std::string();
}

/// The text, or "error: " and the message.
inline std::string render(std::string_view source, const value& context = json("{}"),
                          troupe::text::jinja::options how = {}) {
  auto p = troupe::text::jinja::program::parse(source, how);
  if (!p) return "error: " + p.error().message;
  auto r = p->render(context);
  return r ? *r : "error: " + r.error().message;
}

}  // namespace jinja_tests
