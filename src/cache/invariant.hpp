#pragma once
#include <string>

#include <troupe/error.hpp>

namespace troupe::cache {

/// The books of the pages are checked in release too: an error here would let two sequences write one page. A breach
/// throws errc::internal; whoever drives the books ends its requests and stops, it does not go on.
[[noreturn, gnu::noinline, gnu::cold]] inline void breach(const char* invariant) {
  throw error(errc::internal, std::string("cache books: ") + invariant);
}
inline void require(bool holds, const char* invariant) {
  if (!holds) [[unlikely]]
    breach(invariant);
}

}  // namespace troupe::cache
