#pragma once

namespace troupe::mail {

/// Makes a parked consumer run again. A plain function and its context, so that a mailbox knows nothing of executors:
/// each flavour of event loop supplies a function that posts to it. Called from the sending thread; must not throw and
/// must not run the consumer in place.
struct waker {
  using function = void (*)(void* context) noexcept;

  function call = nullptr;
  void* context = nullptr;

  void operator()() const noexcept { call(context); }
  bool operator==(const waker&) const = default;
};

}  // namespace troupe::mail
