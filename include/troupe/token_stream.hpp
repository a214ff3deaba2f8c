#pragma once
#include <memory>
#include <optional>
#include <utility>

#include <troupe/engine.hpp>

namespace troupe {

namespace detail {
class stream_core;
}

/// One answer being generated, for completion tokens. Movable; dropping it before the end cancels the request.
/// At most one read at a time, from one thread at a time.
class token_stream {
 public:
  token_stream() = default;
  explicit token_stream(std::shared_ptr<detail::stream_core> core) : core_(std::move(core)) {}
  token_stream(token_stream&&) = default;
  inline token_stream& operator=(token_stream&& other) noexcept;
  inline ~token_stream();

  /// Signature void(error_code, std::optional<piece>): the next piece, empty at the end; an error when the request
  /// failed or was cancelled. Cancelling the operation cancels the request.
  template <class CompletionToken>
  auto async_read(CompletionToken&& token) {
    return troupe_async_read(*this, std::forward<CompletionToken>(token));
  }

  /// Ends the request; a waiting read completes with errc::cancelled.
  inline void cancel();

  /// How the answer ended: valid after a read gave the end or an error, else null.
  inline const completion* result() const;

  explicit operator bool() const noexcept { return core_ != nullptr; }
  const std::shared_ptr<detail::stream_core>& core() const noexcept { return core_; }

 private:
  std::shared_ptr<detail::stream_core> core_;
};

namespace detail {

/// A stream's state between the port that feeds it and the one read that may wait. Each Asio flavour derives from it
/// and runs everything on one strand of the consumer's executor.
class stream_core : public stream_sink {
 public:
  virtual void cancel() = 0;   ///< from any thread
  virtual void abandon() = 0;  ///< the token_stream was dropped
  const completion* result() const { return delivered_end_ ? &*end_ : nullptr; }

 protected:
  std::optional<completion> end_;
  bool delivered_end_ = false;
};

}  // namespace detail

inline token_stream& token_stream::operator=(token_stream&& other) noexcept {
  if (this != &other) {
    if (core_) core_->abandon();
    core_ = std::move(other.core_);
  }
  return *this;
}
inline token_stream::~token_stream() {
  if (core_) core_->abandon();
}
inline void token_stream::cancel() {
  if (core_) core_->cancel();
}
inline const completion* token_stream::result() const { return core_ ? core_->result() : nullptr; }

}  // namespace troupe
