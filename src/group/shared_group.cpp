#include "src/group/shared_group.hpp"

#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <new>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace troupe::group {
namespace {

using clock = std::chrono::steady_clock;

constexpr std::uint64_t magic = 0x31756f7267706f74;
constexpr std::uint32_t most_ranks = 256;

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

/// Lies at the start of the memory that the ranks share; each part that ranks wait for or write often has a line of its
/// own.
struct control {
  std::uint64_t magic;
  std::uint32_t size;
  std::uint64_t capacity;
  alignas(64) std::atomic<std::uint32_t> generation;  ///< meetings that are over; what ranks sleep on
  std::atomic<std::uint32_t> sleepers;
  alignas(64) std::atomic<std::uint32_t> arrived;  ///< at the meeting that is not over
  alignas(64) std::atomic<std::uint32_t> aborted;
  struct alignas(64) rank_state {
    std::atomic<std::uint64_t> entered;  ///< meetings that it has come to
  } ranks[most_ranks];
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free && std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));

constexpr std::uint64_t blocks_at = (sizeof(control) + 4095) / 4096 * 4096;

/// Bytes of all; two blocks per rank.
std::uint64_t bytes_of(std::uint32_t size, std::uint64_t capacity) { return blocks_at + 2 * size * capacity; }

std::uint64_t capacity_of(const group_options& o) { return (o.buffer_bytes + 63) / 64 * 64; }

result<void> check(std::uint32_t size, const group_options& o) {
  if (size == 0 || size > most_ranks)
    return failure(errc::invalid_argument, "a group has 1 to " + std::to_string(most_ranks) + " ranks");
  if (o.buffer_bytes < 64 || o.buffer_bytes > (1u << 30))
    return failure(errc::invalid_argument, "a group's buffers have 64 bytes to 1 GiB");
  return {};
}

}  // namespace

/// The memory, mapped; of a process or of several.
class shared_memory {
 public:
  /// fd -1: this process's own.
  static result<std::shared_ptr<shared_memory>> make(std::uint32_t size, std::uint64_t capacity, int fd) {
    auto memory = map(bytes_of(size, capacity), fd);
    if (!memory) return memory;
    control* c = new ((*memory)->address_) control{};  // zeroed memory, but its atomics' lives begin here
    c->size = size;
    c->capacity = capacity;
    c->magic = magic;
    return memory;
  }

  static result<std::shared_ptr<shared_memory>> map(std::uint64_t bytes, int fd) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
      if (fd >= 0) close(fd);
      return failure(errc::out_of_memory, std::to_string(bytes >> 10) +
                                              " KiB for a group's exchange were refused by the "
                                              "system: free memory");
    }
    return std::shared_ptr<shared_memory>(new shared_memory(p, bytes, fd));
  }

  ~shared_memory() {
    munmap(address_, bytes_);
    if (fd_ >= 0) close(fd_);
  }

  control& state() const { return *static_cast<control*>(address_); }
  std::byte* block(std::uint32_t rank, std::uint32_t which) const {
    const control& c = state();
    return static_cast<std::byte*>(address_) + blocks_at + (std::uint64_t{which} * c.size + rank) * c.capacity;
  }
  int fd() const { return fd_; }

  void abort() noexcept {
    control& c = state();
    c.aborted.store(1);
    c.generation.fetch_add(1);  // whoever is about to sleep on the old number does not
    wake();
  }

  void wake() noexcept { syscall(SYS_futex, word(), FUTEX_WAKE | flags(), INT_MAX, nullptr, nullptr, 0); }
  void sleep(std::uint32_t old, clock::duration at_most) noexcept {
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(at_most).count();
    const timespec time{ns / 1'000'000'000, ns % 1'000'000'000};
    syscall(SYS_futex, word(), FUTEX_WAIT | flags(), old, &time, nullptr, 0);
  }

  std::optional<std::uint32_t> awaited() const {
    const control& c = state();
    std::uint32_t last = 0;
    std::uint64_t least = c.ranks[0].entered.load(std::memory_order_relaxed), most = least;
    for (std::uint32_t r = 1; r < c.size; ++r) {
      const std::uint64_t n = c.ranks[r].entered.load(std::memory_order_relaxed);
      if (n < least) least = n, last = r;
      most = std::max(most, n);
    }
    return least == most ? std::nullopt : std::optional(last);
  }

 private:
  shared_memory(void* address, std::uint64_t bytes, int fd) : address_(address), bytes_(bytes), fd_(fd) {}
  int flags() const { return fd_ < 0 ? FUTEX_PRIVATE_FLAG : 0; }
  std::uint32_t* word() const { return reinterpret_cast<std::uint32_t*>(&state().generation); }

  void* address_;
  std::uint64_t bytes_;
  int fd_;
};

/// Ranks meet once per swap: the last to arrive ends the meeting. Two blocks per rank make one meeting enough, since a
/// rank that comes to meeting k + 1 has read what it wanted of meeting k, and blocks of k are written again for k + 2.
class shared_collective final : public collective {
 public:
  shared_collective(std::shared_ptr<shared_memory> memory, const group_place& place, std::chrono::milliseconds limit)
      : collective(place, memory->state().capacity),
        memory_(std::move(memory)),
        limit_(limit),
        // Ranks come to a meeting within microseconds of one another, if each has a processor to itself.
        spin_(place.size > std::max(1u, std::thread::hardware_concurrency()) ? std::chrono::microseconds(1)
                                                                             : std::chrono::microseconds(40)) {}

  void abort() noexcept override { memory_->abort(); }
  std::optional<std::uint32_t> awaited() const override { return memory_->awaited(); }

 private:
  std::byte* own_block() override { return memory_->block(place().rank, n_swaps_ % 2); }
  const std::byte* block(std::uint32_t rank) const override { return memory_->block(rank, (n_swaps_ - 1) % 2); }

  result<void> swap(std::span<const std::uint64_t>, readers) override {
    control& c = memory_->state();
    const std::uint32_t now = c.generation.load(std::memory_order_relaxed);
    if (c.aborted.load(std::memory_order_acquire)) return aborted();
    c.ranks[place().rank].entered.store(++n_swaps_, std::memory_order_relaxed);
    if (c.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == place().size) {
      c.arrived.store(0, std::memory_order_relaxed);
      // Both sequentially consistent: either this load sees the sleeper, or the sleeper sees the new number.
      c.generation.fetch_add(1);
      if (c.sleepers.load() != 0) memory_->wake();
    } else if (!wait_while(now)) {
      return late();
    }
    if (c.aborted.load(std::memory_order_acquire)) return aborted();
    return {};
  }

  bool wait_while(std::uint32_t old) {
    control& c = memory_->state();
    const auto over = [&] { return c.generation.load(std::memory_order_acquire) != old; };
    for (int i = 0; i < 64; ++i) {
      if (over()) return true;
      pause();
    }
    const auto start = clock::now();
    while (clock::now() - start < spin_)
      for (int i = 0; i < 32; ++i) {
        if (over()) return true;
        pause();
      }
    for (int i = 0; i < 4; ++i) {
      sched_yield();
      if (over()) return true;
    }
    c.sleepers.fetch_add(1);
    bool in_time = true;
    while (c.generation.load() == old) {
      const auto left = limit_ - (clock::now() - start);
      if (left <= clock::duration::zero()) {
        in_time = false;
        break;
      }
      memory_->sleep(old, left);
    }
    c.sleepers.fetch_sub(1);
    return in_time;
  }

  failure aborted() const {
    return {errc::rank_failed, "rank " + std::to_string(place().rank) + ": the group of ranks was ended"};
  }
  failure late() {
    const auto who = memory_->awaited();
    memory_->abort();
    return {errc::rank_failed, (who ? "rank " + std::to_string(*who) : std::string("a rank")) +
                                   " has not come to an exchange within " + std::to_string(limit_.count()) + " ms"};
  }

  std::shared_ptr<shared_memory> memory_;
  std::chrono::milliseconds limit_;
  std::chrono::nanoseconds spin_;
  std::uint64_t n_swaps_ = 0;
};

result<std::vector<std::shared_ptr<collective>>> make_thread_group(std::uint32_t size, const group_options& o) {
  if (auto ok = check(size, o); !ok) return ok.take_error();
  auto memory = shared_memory::make(size, capacity_of(o), -1);
  if (!memory) return memory.take_error();
  std::vector<std::shared_ptr<collective>> members;
  for (std::uint32_t r = 0; r < size; ++r)
    members.push_back(std::make_shared<shared_collective>(*memory, group_place{r, size}, o.limit));
  return members;
}

shared_group::shared_group(std::shared_ptr<shared_memory> m) : memory_(std::move(m)) {}
shared_group::shared_group(shared_group&&) noexcept = default;
shared_group& shared_group::operator=(shared_group&&) noexcept = default;
shared_group::~shared_group() = default;

int shared_group::fd() const noexcept { return memory_->fd(); }
void shared_group::abort() noexcept { memory_->abort(); }
std::optional<std::uint32_t> shared_group::awaited() const { return memory_->awaited(); }

result<shared_group> shared_group::create(std::uint32_t size, const group_options& o) {
  if (auto ok = check(size, o); !ok) return ok.take_error();
  const failure refused(errc::out_of_memory, "memory to be shared by ranks was refused by the system: free memory");
  const int fd = memfd_create("troupe-group", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return refused;
  const std::uint64_t bytes = bytes_of(size, capacity_of(o));
  // Sealed, because a mapping whose file shrinks ends a process.
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0 ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    close(fd);
    return refused;
  }
  auto memory = shared_memory::make(size, capacity_of(o), fd);
  if (!memory) return memory.take_error();
  return shared_group(std::move(*memory));
}

result<std::shared_ptr<collective>> join_shared_group(int fd, std::uint32_t rank, std::chrono::milliseconds limit) {
  const failure none(errc::invalid_argument, "file descriptor " + std::to_string(fd) + " is no group of ranks");
  struct stat info {};
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &info) != 0) return none;
  const auto bytes = static_cast<std::uint64_t>(info.st_size);
  if (bytes < blocks_at) return none;
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (own < 0) return none;
  auto memory = shared_memory::map(bytes, own);
  if (!memory) return memory.take_error();
  const control& c = (*memory)->state();
  if (c.magic != magic || c.size == 0 || c.size > most_ranks || c.capacity > bytes ||
      bytes_of(c.size, c.capacity) != bytes)
    return none;
  if (rank >= c.size)
    return failure(errc::invalid_argument, "rank " + std::to_string(rank) + " of a group of " + std::to_string(c.size));
  return std::shared_ptr<collective>(
      std::make_shared<shared_collective>(std::move(*memory), group_place{rank, c.size}, limit));
}

}  // namespace troupe::group
