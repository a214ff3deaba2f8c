#pragma once
#include <string>
#include <system_error>

#include <troupe/export.hpp>

namespace troupe {

/// What can go wrong, as seen by a program that uses Troupe. HTTP status and exit code follow from it (see wire and tools).
enum class errc {
  invalid_argument = 1,  ///< a request, option or parameter is malformed                         400, exit 2
  invalid_file,          ///< a model, template or token file is corrupt or truncated              400, exit 2
  unsupported,           ///< understood, but this build or model cannot do it                     400, exit 2
  not_found,             ///< no such model, file or route                                         404, exit 2
  context_exceeded,      ///< prompt and output do not fit the model's context or the cache        400, exit 2
  too_many_requests,     ///< the client's share is used up                                        429
  overloaded,            ///< the engine holds as many requests as it admits                       503
  draining,              ///< the engine is shutting down and takes no new work                    503
  cancelled,             ///< the caller cancelled, or its connection closed
  deadline_exceeded,     ///< the request's deadline or stall limit passed                         408
  rank_failed,           ///< a rank was lost; the engine cannot go on                             500, exit 70
  out_of_memory,         ///< a planned allocation was refused by the system                       500, exit 3
  io_failed,             ///< reading or writing a file or socket failed                           500, exit 3
  internal,              ///< a fault of Troupe itself; ends the request it happened in            500, exit 3
};

TROUPE_API const std::error_category& category() noexcept;
inline std::error_code make_error_code(errc e) noexcept { return {static_cast<int>(e), category()}; }

/// Thrown by construction and configuration only; `what()` says what happened and what to do.
class TROUPE_API error : public std::system_error {
 public:
  error(errc code, const std::string& message);
  ~error() override;
  /// The message alone, without the text of the code that `what()` may append.
  const std::string& message() const noexcept { return message_; }

 private:
  std::string message_;
};

}  // namespace troupe

template <>
struct std::is_error_code_enum<troupe::errc> : std::true_type {};
