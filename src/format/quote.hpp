#pragma once
#include <string>
#include <string_view>

namespace troupe::format {

/// Text out of a file, fit to stand in a message: in quotes, at most 64 bytes of it, anything but printable ASCII as
/// \xNN.
std::string quoted(std::string_view text);

}  // namespace troupe::format
