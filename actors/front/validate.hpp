#pragma once
#include <troupe/request.hpp>

#include "src/base/result.hpp"

namespace troupe::front {

namespace limits {
inline constexpr std::size_t stop_strings = 16;
inline constexpr std::size_t stop_bytes = 256;
inline constexpr std::size_t stop_tokens = 256;
inline constexpr std::size_t bias_entries = 1024;
}  // namespace limits

/// What can be said of a request without a tokenizer: ranges, counts and lengths, ids against the vocabulary.
/// Failures are invalid_argument and name the field.
result<void> validate(const request&, std::uint32_t vocab);

/// The same for sampling parameters alone.
result<void> validate(const sampling_params&, std::uint32_t vocab);

}  // namespace troupe::front
