#pragma once
#include <string>
#include <string_view>

#include "src/text/jinja_runtime.hpp"

namespace troupe::text::jinja {

/// Python's str(v) and repr(v). Too long a text, or one nested too deeply, fails.
std::string to_text(runtime& rt, const value& v);
std::string to_repr(runtime& rt, const value& v);
void append_text(runtime& rt, std::string& out, const value& v);

/// repr(float): the shortest decimal that reads back as the same double, 1e16 and above with an exponent.
std::string real_repr(double d);
/// repr(str): single quotes unless the text has those and no double ones.
void append_text_repr(std::string& out, std::string_view s);

}  // namespace troupe::text::jinja
