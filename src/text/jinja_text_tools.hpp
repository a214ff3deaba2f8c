#pragma once
#include <string_view>
#include <vector>

#include "src/text/jinja_runtime.hpp"

/// What methods and filters of strings share.
namespace troupe::text::jinja {

/// Where the needle is first found at or behind `from`, in time linear in both texts.
std::size_t find_first(std::string_view text, std::string_view needle, std::size_t from = 0);
/// Where it is last found. Charged for the worst case, which is the product of both sizes.
std::size_t find_last(runtime& rt, std::string_view text, std::string_view needle);

/// str.strip and its halves; `chars` undefined or none: white space.
value strip(runtime& rt, const value& s, const value& chars, bool left, bool right);
/// str.replace; `most` < 0: all.
value replace(runtime& rt, const value& s, std::string_view from, std::string_view to, std::int64_t most);
/// str.splitlines.
std::vector<std::string_view> split_lines(std::string_view s, bool keep_ends);

}  // namespace troupe::text::jinja
