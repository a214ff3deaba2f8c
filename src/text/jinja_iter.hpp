#pragma once
#include <memory>
#include <vector>

#include "src/text/jinja_runtime.hpp"

namespace troupe::text::jinja {

/// Python's iter(). Null, with the failure recorded, when the value cannot be walked. A generator is shared, not
/// copied: what one walker takes the next does not see.
std::unique_ptr<iterator> iterate(runtime& rt, const value& v);
bool is_iterable(const value& v);

/// Python's list(v).
std::vector<value> collect(runtime& rt, const value& v);

/// Python's len(v); -1 when it has none, with the failure recorded.
std::int64_t length(runtime& rt, const value& v);
bool has_length(const value& v);

/// Item i of a list, tuple, string or range without a copy of the rest; i counts from the end when negative. Undefined
/// and false when out of range.
bool item_at(runtime& rt, const value& v, std::int64_t i, value& out);

/// Walks over its own copy of the items.
std::unique_ptr<iterator> over_items(std::vector<value> items);

}  // namespace troupe::text::jinja
