#pragma once
#include <cstddef>
#include <exception>
#include <functional>
#include <string>
#include <string_view>

namespace troupe::runtime {

/// An exception that got out of an actor's code. The actor goes on with its next message.
struct fault {
  static constexpr std::size_t no_message = static_cast<std::size_t>(-1);

  std::string_view where;            ///< the actor's or loop's name; valid during the call
  std::size_t message = no_message;  ///< index of the message's alternative, if a handler threw
  std::exception_ptr error;

  /// The exception's text.
  std::string what() const;
};

/// Called on the thread where the fault happened; must not throw. An empty one logs.
using fault_handler = std::function<void(const fault&)>;

/// Hands `f` to `handler`, or to the log if there is none.
void report(const fault_handler& handler, const fault& f) noexcept;

}  // namespace troupe::runtime
