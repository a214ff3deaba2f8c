#pragma once
#include <cstdint>

namespace troupe {

using token_id = std::int32_t;
using request_id = std::uint64_t;   ///< unique within an engine
using slot_id = std::uint32_t;      ///< a row of the ranks' slot table, held by a running sequence
using page_id = std::uint32_t;      ///< a page of one KV group
using step_seq = std::uint64_t;     ///< number of a step plan, from 1, without gaps

inline constexpr std::uint32_t page_tokens = 16;  ///< tokens in a KV page

}  // namespace troupe
