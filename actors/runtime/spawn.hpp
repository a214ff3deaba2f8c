#pragma once
#include <asio/awaitable.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "actors/runtime/fault.hpp"
#include "actors/runtime/loop.hpp"
#include "src/mail/scope.hpp"

namespace troupe::runtime {

/// Starts a coroutine that belongs to `owner`: closing the scope cancels what it waits for, and the scope completes
/// only after it has ended. An exception out of it goes to `on_fault`, except the one that cancellation throws. Loop's
/// thread only. False: the scope is closed, nothing was started.
///
/// The coroutine rules (ARCHITECTURE.md; probed in tests/runtime/coroutines.cpp): start it from a function whose
/// parameters are values; a line with co_await holds names only; no co_await in a condition; no capturing lambda
/// coroutine; no reference to a local across a suspension.
bool spawn(mail::scope& owner, loop& on, asio::awaitable<void> work, fault_handler on_fault = {});

/// Waits, inside a coroutine started by `spawn`. False: the scope was closed meanwhile; return soon.
asio::awaitable<bool> sleep_until(std::chrono::steady_clock::time_point when);
asio::awaitable<bool> sleep_for(std::chrono::steady_clock::duration time);

/// Calls `work` on the loop's thread every `period`, counted from the start so that it does not drift; periods that
/// passed while the loop was busy are skipped. Ends with the scope. An exception out of `work` goes to `on_fault` and
/// does not end the timer.
bool every(mail::scope& owner, loop& on, std::chrono::steady_clock::duration period, std::function<void()> work,
           fault_handler on_fault = {});

}  // namespace troupe::runtime
