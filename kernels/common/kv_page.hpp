#pragma once
#include <cstdint>

namespace troupe::kernels {

/// Tokens in a KV page. Equal to troupe::page_tokens, which the hosts of the kernels assert.
inline constexpr std::uint32_t kv_page_tokens = 16;

}  // namespace troupe::kernels
