#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

namespace troupe::mail {

/// The right to have one request in the engine; gives its share back when it ends. Movable, any thread.
class permit {
 public:
  permit() = default;
  permit(permit&&) = default;
  permit& operator=(permit&& other) noexcept {
    if (this != &other) {
      release();
      share_ = std::move(other.share_);
      weight_ = other.weight_;
    }
    return *this;
  }
  ~permit() { release(); }

  void release() noexcept {
    if (!share_) return;
    share_->fetch_sub(weight_, std::memory_order_acq_rel);
    share_.reset();
  }
  explicit operator bool() const noexcept { return share_ != nullptr; }

 private:
  friend class permits;
  using counter = std::atomic<std::uint64_t>;
  permit(std::shared_ptr<counter> share, std::uint32_t weight) : share_(std::move(share)), weight_(weight) {}

  std::shared_ptr<counter> share_;
  std::uint32_t weight_ = 0;
};

/// Counted admission, the only place where back-pressure meets the outside: over the limit a request is refused before
/// any work is done for it. Any thread; permits may outlive it.
class permits {
 public:
  explicit permits(std::uint32_t limit) : used_(std::make_shared<permit::counter>(0)), limit_(limit) {}

  /// Nothing if `weight` more would pass the limit, or after `close`.
  std::optional<permit> try_acquire(std::uint32_t weight = 1) {
    std::uint64_t seen = used_->load(std::memory_order_relaxed);
    do {
      if ((seen & closed_bit) || seen + weight > limit_) return std::nullopt;
    } while (!used_->compare_exchange_weak(seen, seen + weight, std::memory_order_acq_rel, std::memory_order_relaxed));
    return permit(used_, weight);
  }

  /// Grants nothing more; what is out stays valid.
  void close() noexcept { used_->fetch_or(closed_bit, std::memory_order_acq_rel); }
  bool closed() const noexcept { return used_->load(std::memory_order_acquire) & closed_bit; }

  std::uint32_t limit() const noexcept { return limit_; }
  std::uint32_t in_use() const noexcept {
    return static_cast<std::uint32_t>(used_->load(std::memory_order_acquire) & ~closed_bit);
  }

 private:
  static constexpr std::uint64_t closed_bit = std::uint64_t{1} << 63;

  std::shared_ptr<permit::counter> used_;
  std::uint32_t limit_;
};

}  // namespace troupe::mail
