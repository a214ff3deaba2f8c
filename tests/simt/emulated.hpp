#pragma once

namespace troupe::test {

/// Whether tests/simt emulates the card: it is thousands of times slower, so that cases are made smaller for it.
#if defined(TROUPE_SIMT)
inline constexpr bool emulated = true;
#else
inline constexpr bool emulated = false;
#endif

}  // namespace troupe::test
