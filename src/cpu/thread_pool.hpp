#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

/// Compute threads for one backend. A job is one function that every thread runs (the caller is thread 0) and that meets
/// at barriers between its phases; within a phase the threads take tiles from a shared counter. Waiting is a bounded spin
/// and then sleep in the kernel, so a pool without work uses no processor.
namespace troupe::cpu {

class thread_pool;

/// A thread's view of the running job. All threads make the same sequence of calls to for_tiles and barrier.
class team {
 public:
  std::uint32_t index() const { return index_; }
  std::uint32_t size() const;

  /// Returns when every thread has arrived; what they wrote before is visible after.
  void barrier();

  /// Calls f(first, last) for chunks of [0, n), each chunk on one thread. A barrier must lie between this call and the
  /// next but two.
  template <class F>
  void for_tiles(std::uint32_t n, std::uint32_t chunk, F&& f) {
    if (size() == 1) {
      if (n) f(0u, n);
      return;
    }
    const std::uint32_t n_chunks = (n + chunk - 1) / chunk;
    for (std::uint32_t c; (c = take()) < n_chunks;) f(c * chunk, c + 1 == n_chunks ? n : (c + 1) * chunk);
    retire(n_chunks);
  }

 private:
  friend class thread_pool;
  team(thread_pool& pool, std::uint32_t index) : pool_(pool), index_(index) {}
  std::uint32_t take();
  void retire(std::uint32_t n_chunks);

  static constexpr std::uint32_t n_counters = 4;
  thread_pool& pool_;
  std::uint32_t index_;
  std::uint32_t phase_ = 0;
  std::uint32_t base_[n_counters] = {};  // where each counter stands when all threads have retired
};

class thread_pool {
 public:
  /// Throws std::system_error if a thread cannot be made.
  explicit thread_pool(std::uint32_t n_threads);
  ~thread_pool();
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  std::uint32_t size() const { return n_; }

  /// Runs f(team&) on every thread; returns when all are done. f must not throw. One caller at a time.
  template <class F>
  void run(F&& f) {
    run_job({[](void* context, team& t) { (*static_cast<std::remove_reference_t<F>*>(context))(t); }, &f});
  }

 private:
  friend class team;
  struct job {
    void (*call)(void*, team&) = nullptr;
    void* context = nullptr;
  };
  struct alignas(64) counter {
    std::atomic<std::uint32_t> value{0};
  };
  struct alignas(64) signal {
    std::atomic<std::uint32_t> value{0};
    std::atomic<std::uint32_t> sleepers{0};
    void raise();
    void wait_while(std::uint32_t old, std::uint32_t spin_ns);
  };

  void run_job(job);
  void work(std::uint32_t index);
  void arrive();
  void join();

  const std::uint32_t n_;
  std::uint32_t spin_ns_;
  job job_;
  bool stop_ = false;
  signal start_;                 // number of jobs given out
  signal generation_;            // number of barriers passed
  counter arrived_;
  counter counters_[team::n_counters];
  std::vector<team> teams_;
  std::vector<std::thread> threads_;
};

inline std::uint32_t team::size() const { return pool_.n_; }
inline std::uint32_t team::take() {
  const std::uint32_t i = phase_ % n_counters;
  return pool_.counters_[i].value.fetch_add(1, std::memory_order_relaxed) - base_[i];
}
/// Each thread draws exactly one number past the end, so the next base is known without a reset.
inline void team::retire(std::uint32_t n_chunks) {
  base_[phase_ % n_counters] += n_chunks + pool_.n_;
  ++phase_;
}
inline void team::barrier() {
  if (pool_.n_ > 1) pool_.arrive();
}

/// Processors that this process may use.
std::uint32_t available_processors();

}  // namespace troupe::cpu
