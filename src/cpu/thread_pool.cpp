#include "src/cpu/thread_pool.hpp"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace troupe::cpu {
namespace {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t old) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
}
void futex_wake_all(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}
static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));

/// Kernels promise their bits for the default rounding and with subnormals; a host program may have set others.
class default_float_mode {
 public:
#if defined(__x86_64__)
  default_float_mode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~default_float_mode() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

}  // namespace

std::uint32_t available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<std::uint32_t>(std::max(1, CPU_COUNT(&set)));
  return std::max(1u, std::thread::hardware_concurrency());
}

void thread_pool::signal::raise() {
  // Both sequentially consistent: either this load sees the sleeper, or the sleeper sees the new value.
  value.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers.load(std::memory_order_seq_cst) != 0) futex_wake_all(value);
}

void thread_pool::signal::wait_while(std::uint32_t old, std::uint32_t spin_ns) {
  using clock = std::chrono::steady_clock;
  for (int i = 0; i < 64; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  const auto end = clock::now() + std::chrono::nanoseconds(spin_ns);
  while (clock::now() < end)
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  while (value.load(std::memory_order_seq_cst) == old) futex_wait(value, old);
  sleepers.fetch_sub(1, std::memory_order_relaxed);
}

thread_pool::thread_pool(std::uint32_t n_threads)
    : n_(std::max(1u, n_threads)), spin_ns_(n_ > available_processors() ? 1'000 : 40'000) {
  teams_.reserve(n_);
  for (std::uint32_t i = 0; i < n_; ++i) teams_.push_back(team(*this, i));
  threads_.reserve(n_);
  try {
    for (std::uint32_t i = 1; i < n_; ++i) threads_.emplace_back([this, i] { work(i); });
  } catch (...) {
    join();
    throw;
  }
}

thread_pool::~thread_pool() { join(); }

void thread_pool::join() {
  stop_ = true;
  start_.raise();
  for (std::thread& t : threads_) t.join();
}

void thread_pool::run_job(job j) {
  default_float_mode mode;
  job_ = j;
  if (n_ == 1) return j.call(j.context, teams_[0]);
  start_.raise();
  j.call(j.context, teams_[0]);
  arrive();
}

void thread_pool::work(std::uint32_t index) {
  for (std::uint32_t done = 0;; ++done) {
    start_.wait_while(done, spin_ns_);
    if (stop_) return;
    default_float_mode mode;
    job_.call(job_.context, teams_[index]);
    arrive();
  }
}

void thread_pool::arrive() {
  const std::uint32_t now = generation_.value.load(std::memory_order_relaxed);
  if (arrived_.value.fetch_add(1, std::memory_order_acq_rel) + 1 == n_) {
    arrived_.value.store(0, std::memory_order_relaxed);
    generation_.raise();
  } else {
    generation_.wait_while(now, spin_ns_);
  }
}

}  // namespace troupe::cpu
