#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

/// Masks of tokens that arrive while the step runs: a gated row's forward pass needs none, so whoever computes its mask
/// (a grammar, from the token drawn before) has the time of that pass for it.
namespace troupe::model {

/// How long a row waits before it fails. A mask that never comes must not hold up everybody's step for ever.
inline constexpr std::chrono::milliseconds mask_patience{10'000};

enum class mask_state : std::uint8_t { pending, ready, given_up };

/// What one row may draw. Filled by one thread, read by the rank's once it is ready; constant from then on.
class token_mask {
 public:
  static std::size_t words_of(std::uint32_t vocab) { return (std::size_t{vocab} + 31) / 32; }

  /// Allows nothing yet.
  explicit token_mask(std::uint32_t vocab) : words_(words_of(vocab)) {}

  void allow(std::uint32_t token) { words_[token / 32] |= 1u << token % 32; }
  /// Bit i of word w is token 32 w + i. Bits beyond the vocabulary mean nothing.
  std::span<std::uint32_t> words() { return words_; }
  std::span<const std::uint32_t> words() const { return words_; }

  void set_ready() { settle(mask_state::ready); }
  /// There will be no mask (its request was cancelled, its computation failed): the row fails at once.
  void give_up() { settle(mask_state::given_up); }

  /// Cheap: a device's rank asks while it watches the step word.
  mask_state state() const { return state_.load(std::memory_order_acquire); }
  /// Pending: the time has come and the mask has not.
  mask_state wait_until(std::chrono::steady_clock::time_point limit) const {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, limit, [this] { return state() != mask_state::pending; });
    return state();
  }

 private:
  void settle(mask_state s) {
    {
      std::lock_guard lock(mutex_);
      if (state() != mask_state::pending) return;
      state_.store(s, std::memory_order_release);
    }
    changed_.notify_all();
  }

  std::vector<std::uint32_t> words_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::atomic<mask_state> state_{mask_state::pending};  // written under the mutex
};

/// Where the masks of a plan's gated rows come from; shared by whoever computes them and the ranks of one process. Any
/// thread.
class mask_table {
 public:
  virtual ~mask_table() = default;
  /// Asked once per gated row, when its plan is launched; the rank holds the mask until the row is drawn. Null: nobody
  /// will compute one, the row fails at once.
  virtual std::shared_ptr<const token_mask> find(std::uint32_t gate_id) = 0;
};

}  // namespace troupe::model
