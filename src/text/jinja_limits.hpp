#pragma once
#include <cstddef>
#include <cstdint>

namespace troupe::text::jinja {

/// What a template may use. Exceeding one fails with the line and the name of the limit; nothing is truncated.
struct limits {
  std::size_t template_bytes = 1u << 20;    ///< size of the source
  std::size_t nesting = 200;                ///< depth of the syntax tree, blocks and expressions together
  std::size_t recursion = 1000;             ///< depth of evaluation: macros, recursive loops, nested expressions
  std::uint64_t steps = 10'000'000;         ///< evaluated nodes, iterations and 256-byte pieces of string work
  std::size_t output_bytes = 32u << 20;     ///< size of the rendered text
  std::size_t string_bytes = 32u << 20;     ///< size of any one string
  std::uint64_t memory_bytes = 256u << 20;  ///< all values made while rendering, together (freed ones count too)
  std::size_t range_length = 100'000;       ///< items of one range(), as in Jinja's sandbox
  std::size_t value_depth = 100;            ///< lists in lists, also of the JSON that comes in
};

}  // namespace troupe::text::jinja
