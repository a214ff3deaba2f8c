#pragma once
#include <string_view>

#include "src/text/jinja_ast.hpp"
#include "src/text/jinja_runtime.hpp"

/// Python's operators and Jinja's ways to look into a value.
namespace troupe::text::jinja {

/// Integers that leave 64 bits fail. `a` is taken by value so that a string can grow in place.
value arithmetic(runtime& rt, binary_op op, value a, const value& b);
value negated(runtime& rt, const value& v);
value unchanged(runtime& rt, const value& v);  ///< unary plus

bool compare(runtime& rt, compare_op op, const value& a, const value& b);
bool less(runtime& rt, const value& a, const value& b);
bool contains(runtime& rt, const value& container, const value& v);

/// x.name: a Python attribute or method first, then an item.
value attribute(runtime& rt, const value& of, std::string_view name);
/// x[key]: an item first, then an attribute. What is missing is undefined, not a failure.
value item(runtime& rt, const value& of, const value& key);
/// A Python attribute of that name alone, and whether there is one.
bool own_attribute(runtime& rt, const value& of, std::string_view name, value& out);
/// x[start:stop:step]; absent parts are none.
value slice(runtime& rt, const value& of, const value& start, const value& stop, const value& step);

/// The text with code points [from, to).
value code_points(runtime& rt, const value& text, std::size_t from, std::size_t to);

/// 'text' % arguments and text.format(...).
value format_percent(runtime& rt, const value& text, const value& arguments);
value format_braces(runtime& rt, const value& text, const call_args& args);

}  // namespace troupe::text::jinja
