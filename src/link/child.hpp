#pragma once
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "src/base/result.hpp"

/// Processes that this one starts.
namespace troupe::link {

inline constexpr int first_child_fd = 3;

/// Starts `program` with `arguments` (without the name). The child has standard error for standard output, no input,
/// the descriptors `fds` as 3, 4 and so on and no others, and signals as at a process's start. Errors: not_found,
/// io_failed.
result<pid_t> start_child(const std::string& program, const std::vector<std::string>& arguments,
                          const std::vector<int>& fds);

/// "was killed by signal 9 (Killed)", "ended with exit code 1"; nothing: it still runs. Takes the child's status, so
/// that a later call has nothing to say of it.
std::optional<std::string> end_of(pid_t);

}  // namespace troupe::link
