#pragma once
#include <string>

#include <troupe/error.hpp>

namespace troupe::cache {

/// The books of the pages are checked in release too: an error here would let two sequences write one page. A breach
/// throws errc::internal; whoever drives the books ends its requests and stops, it does not go on.
inline void require(bool holds, const char* invariant) {
  if (!holds) [[unlikely]]
    throw error(errc::internal, std::string("cache books: ") + invariant);
}

}  // namespace troupe::cache
