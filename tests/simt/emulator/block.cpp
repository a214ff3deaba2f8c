#include "simt/block.hpp"

#include <algorithm>
#include <atomic>
#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "simt/device.hpp"

constinit thread_local uint3 threadIdx{}, blockIdx{};
constinit thread_local dim3 blockDim{}, gridDim{};

namespace simt {
namespace {

namespace ctx = boost::context;

constexpr std::size_t stack_bytes = 256 << 10;  // of pages that a fiber touches; kernels keep whole tiles in arrays
constexpr std::uint32_t shared_origin = 1024;   // address of the first byte of dynamic shared memory

struct order_rule {
  std::atomic<order> kind{order::forward};
  std::atomic<std::uint64_t> seed{0};
  order_rule() {
    const char* const said = std::getenv("TROUPE_SIMT_ORDER");
    if (said == nullptr || std::string_view(said) == "forward" || *said == '\0') return;
    kind = std::string_view(said) == "reversed" ? order::reversed : order::shuffled;
    seed = std::strtoull(said, nullptr, 10);
  }
};
order_rule& rule() {
  static order_rule r;
  return r;
}

struct faulted : std::exception {
  std::string what_;
  explicit faulted(std::string what) : what_(std::move(what)) {}
};

struct copy {
  void* to;
  const void* from;
  std::size_t bytes, size;
  void run() const {
    if (bytes != 0) std::memcpy(to, from, bytes);
    if (bytes < size) std::memset(static_cast<char*>(to) + bytes, 0, size - bytes);
  }
};

/// A thread of the block; its fiber goes on to the next block's when the kernel has ended.
struct lane_fiber {
  ctx::fiber self;  ///< while it does not run
  uint3 index{};
  unsigned number = 0;
  bool at_barrier = false;
  std::vector<copy> copies;         ///< under way, oldest first
  std::vector<std::size_t> groups;  ///< how many copies each closed group has
  std::size_t open_group = 0;
};

/// Lanes that wait for each other.
struct meeting {
  const char* name = nullptr;
  std::uint32_t mask = 0, arrived = 0;
  warp_operation operation = nullptr;
};
struct warp {
  std::uint32_t alive = 0, runnable = 0;
  std::uint32_t paused = 0;  ///< of those: not again in this turn
  unsigned n_meetings = 0;
  meeting meetings[32];  ///< of disjoint masks
  lane_part parts[32];
};

std::string place(uint3 i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string bits_of(std::uint32_t lanes) {
  char text[16];
  std::snprintf(text, sizeof text, "%#x", lanes);
  return text;
}

class executor {
 public:
  std::string run(const std::function<void()>& body, dim3 grid, dim3 block, uint3 index, std::size_t shared_bytes);

  bool meet_block(vote kind, bool mine);
  void meet_warp(const char* name, std::uint32_t mask, warp_operation, const void* in, void* out);
  void pause();
  lane_fiber& current() { return *current_; }
  void* shared() { return shared_; }
  std::size_t shared_bytes() const { return shared_bytes_; }
  bool copies_at_once() {
    const order o = rule().kind;
    return o == order::reversed || (o == order::shuffled && random_() % 2 == 0);
  }

 private:
  void start(unsigned n);
  void switch_to(lane_fiber&);
  void go_on();
  unsigned next_lane(std::uint32_t able, unsigned after);
  void live();
  void end_current();
  bool turn(warp&, unsigned first);
  void finish_if_complete(warp&, unsigned meeting);
  void open_barrier_if_complete();
  std::string who_waits() const;
  template <class F>
  void in_order(std::vector<unsigned>& of, F&& f);

  std::vector<std::unique_ptr<lane_fiber>> fibers_;
  std::vector<warp> warps_;
  std::vector<unsigned> warp_order_;
  const std::function<void()>* body_ = nullptr;
  lane_fiber main_;  ///< stands for whoever runs the block
  lane_fiber *current_ = nullptr, *before_ = nullptr;
  bool moved_ = false;
  order order_ = order::forward;
  unsigned n_threads_ = 0, n_alive_ = 0;
  unsigned n_at_barrier_ = 0;
  vote barrier_kind_ = vote::none;
  bool barrier_any_ = false, barrier_all_ = true, barrier_result_ = false;
  std::optional<std::string> failure_;
  std::vector<unsigned char> shared_room_;
  unsigned char* shared_ = nullptr;
  std::size_t shared_bytes_ = 0;
  std::mt19937_64 random_;
};

thread_local executor* executing = nullptr;

executor& here() {
  if (executing == nullptr) {
    std::fputs("device code runs outside of a kernel\n", stderr);
    std::abort();
  }
  return *executing;
}

/// Stops the current fiber and lets that one run. Whoever runs next says who it was that stopped.
void executor::switch_to(lane_fiber& next) {
  before_ = current_;
  current_ = &next;
  threadIdx = next.index;
  ctx::fiber stopped = std::move(next.self).resume();
  before_->self = std::move(stopped);
}

/// One of `able`, which is not 0, in the order that is wanted.
unsigned executor::next_lane(std::uint32_t able, unsigned after) {
  const auto first = [](std::uint32_t lanes) { return static_cast<unsigned>(__builtin_ctz(lanes)); };
  const auto last = [](std::uint32_t lanes) { return 31u - static_cast<unsigned>(__builtin_clz(lanes)); };
  switch (order_) {
    case order::forward: {
      const std::uint32_t above = able & ~((2u << after) - 1);
      return first(above ? above : able);
    }
    case order::reversed: {
      const std::uint32_t below = able & ((1u << after) - 1);
      return last(below ? below : able);
    }
    case order::shuffled:
      break;
  }
  for (auto skip = random_() % static_cast<unsigned>(__builtin_popcount(able)); skip > 0; --skip) able &= able - 1;
  return first(able);
}

/// The current thread waits, has paused or has ended: another of its warp runs, or, when none can, other warps.
void executor::go_on() {
  const unsigned number = current_->number;
  warp& w = warps_[number / 32];
  const std::uint32_t able = w.runnable & ~w.paused;
  if (able == 0 || failure_) return switch_to(main_);
  const unsigned next = next_lane(able, number % 32);
  if (next != number % 32) switch_to(*fibers_[number / 32 * 32 + next]);
}

/// What a fiber runs: one kernel's thread after the other.
void executor::live() {
  for (;;) {
    try {
      (*body_)();
    } catch (const faulted& f) {
      if (!failure_) failure_ = "thread " + place(current_->index) + ": " + f.what_;
    }
    end_current();
    go_on();
  }
}

void executor::end_current() {
  lane_fiber& t = *current_;
  for (const copy& c : t.copies) c.run();
  t.copies.clear();
  t.groups.clear();
  t.open_group = 0;
  moved_ = true;
  warp& w = warps_[t.number / 32];
  w.alive &= ~(1u << t.number % 32);
  w.runnable &= ~(1u << t.number % 32);
  --n_alive_;
  if (failure_) return;
  // Who waits for a lane that has ended waits no longer.
  try {
    for (unsigned i = w.n_meetings; i-- > 0;) finish_if_complete(w, i);
  } catch (const faulted& f) {
    failure_ = "thread " + place(t.index) + ": " + f.what_;
  }
  open_barrier_if_complete();
}

void executor::start(unsigned n) {
  while (fibers_.size() < n) fibers_.push_back(std::make_unique<lane_fiber>());
  for (unsigned i = 0; i < n; ++i) {
    if (fibers_[i]->self) continue;
    fibers_[i]->self = ctx::fiber(std::allocator_arg, ctx::protected_fixedsize_stack(stack_bytes),
                                  [this](ctx::fiber&& stopped) -> ctx::fiber {
                                    before_->self = std::move(stopped);
                                    live();
                                    return {};
                                  });
  }
}

template <class F>
void executor::in_order(std::vector<unsigned>& of, F&& f) {
  if (order_ == order::shuffled) std::shuffle(of.begin(), of.end(), random_);
  if (order_ == order::reversed)
    for (auto i = of.rbegin(); i != of.rend(); ++i) f(*i);
  else
    for (unsigned i : of) f(i);
}

/// Runs the warp until all of its lanes wait or have paused. Whether any did more than pause.
bool executor::turn(warp& w, unsigned first) {
  w.paused = 0;
  moved_ = false;
  while ((w.runnable & ~w.paused) != 0 && !failure_)
    switch_to(*fibers_[first + next_lane(w.runnable & ~w.paused, order_ == order::reversed ? 0 : 31)]);
  return moved_;
}

std::string executor::run(const std::function<void()>& body, dim3 grid, dim3 block, uint3 index,
                          std::size_t shared_bytes) {
  n_threads_ = n_alive_ = block.x * block.y * block.z;
  const unsigned n_warps = (n_threads_ + 31) / 32;
  body_ = &body;
  failure_.reset();
  n_at_barrier_ = 0;
  barrier_any_ = false;
  barrier_all_ = true;
  if (warps_.size() < n_warps) warps_.resize(n_warps);
  warp_order_.resize(n_warps);
  std::iota(warp_order_.begin(), warp_order_.end(), 0u);
  order_ = rule().kind;
  if (order_ == order::shuffled)
    random_.seed(rule().seed + ((index.z * std::uint64_t{grid.y} + index.y) * grid.x + index.x));

  // Nobody may count on what lies in shared memory: NaN in every format.
  shared_room_.resize(shared_bytes + 1024);
  shared_ = shared_room_.data() + (1024 - reinterpret_cast<std::uintptr_t>(shared_room_.data()) % 1024) % 1024;
  shared_bytes_ = shared_bytes;
  std::memset(shared_, 0xff, shared_bytes);

  start(n_threads_);
  for (unsigned i = 0; i < n_threads_; ++i) {
    lane_fiber& t = *fibers_[i];
    t.number = i;
    t.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    t.at_barrier = false;
  }
  for (unsigned w = 0; w < n_warps; ++w) {
    const unsigned lanes = std::min(32u, n_threads_ - 32 * w);
    warps_[w].alive = warps_[w].runnable = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
    warps_[w].n_meetings = 0;
  }
  blockIdx = index;
  blockDim = block;
  gridDim = grid;

  executor* const before = std::exchange(executing, this);
  current_ = &main_;
  unsigned n_idle = 0;
  while (n_alive_ > 0 && !failure_) {
    bool moved = false, any = false;
    in_order(warp_order_, [&](unsigned w) {
      if (warps_[w].runnable == 0 || failure_) return;
      any = true;
      moved = turn(warps_[w], 32 * w) || moved;
    });
    if (!any && !failure_) failure_ = who_waits();
    // All wait for memory to change. Now and then only: where others want the processor, it takes a while to come back.
    if (!moved && ++n_idle % 64 == 0) std::this_thread::yield();
  }
  executing = before;
  if (!failure_) return {};
  fibers_.clear();  // with what the suspended ones hold
  return *failure_ + ", in block " + place(index);
}

/// Why nobody can go on.
std::string executor::who_waits() const {
  std::string text = "deadlock of " + std::to_string(n_alive_) + " threads: ";
  if (n_at_barrier_ > 0) text += std::to_string(n_at_barrier_) + " wait at a barrier of the block, ";
  for (std::size_t i = 0; i < warp_order_.size(); ++i)
    for (unsigned k = 0; k < warps_[i].n_meetings; ++k) {
      const meeting& m = warps_[i].meetings[k];
      text += "lanes " + bits_of(m.arrived) + " of warp " + std::to_string(i) + " wait in " + m.name + " for lanes " +
              bits_of(m.mask & warps_[i].alive & ~m.arrived) + ", ";
    }
  text.resize(text.size() - 2);
  return text;
}

void executor::open_barrier_if_complete() {
  if (n_at_barrier_ == 0 || n_at_barrier_ < n_alive_) return;
  barrier_result_ = barrier_kind_ == vote::any ? barrier_any_ : barrier_all_;
  n_at_barrier_ = 0;
  barrier_any_ = false;
  barrier_all_ = true;
  for (unsigned i = 0; i < n_threads_; ++i)
    if (std::exchange(fibers_[i]->at_barrier, false)) warps_[i / 32].runnable |= 1u << i % 32;
}

bool executor::meet_block(vote kind, bool mine) {
  lane_fiber& t = *current_;
  if (n_at_barrier_ > 0 && kind != barrier_kind_) fault("threads of a block meet at barriers of different kinds");
  barrier_kind_ = kind;
  barrier_any_ = barrier_any_ || mine;
  barrier_all_ = barrier_all_ && mine;
  ++n_at_barrier_;
  moved_ = true;
  t.at_barrier = true;
  warps_[t.number / 32].runnable &= ~(1u << t.number % 32);
  open_barrier_if_complete();
  if (t.at_barrier) go_on();
  return barrier_result_;
}

void executor::finish_if_complete(warp& w, unsigned i) {
  const std::uint32_t arrived = w.meetings[i].arrived;
  if (arrived != (w.meetings[i].mask & w.alive)) return;
  const warp_operation operation = w.meetings[i].operation;
  if (i != --w.n_meetings) w.meetings[i] = w.meetings[w.n_meetings];
  operation(arrived, w.parts);
  w.runnable |= arrived;
}

void executor::meet_warp(const char* name, std::uint32_t mask, warp_operation operation, const void* in, void* out) {
  const unsigned number = current_->number, lane = number % 32;
  const std::uint32_t own = 1u << lane;
  warp& w = warps_[number / 32];
  if (!(mask & own)) fault(std::string(name) + " by a lane that is not in its mask");
  unsigned at = 0;
  while (at < w.n_meetings && !(w.meetings[at].mask & mask)) ++at;
  if (at == w.n_meetings)
    w.meetings[w.n_meetings++] = {name, mask, 0, operation};
  else if (w.meetings[at].mask != mask || w.meetings[at].operation != operation)
    fault(std::string(name) + " while other lanes of its mask wait in " + w.meetings[at].name);
  w.meetings[at].arrived |= own;
  w.parts[lane] = {in, out};
  w.runnable &= ~own;
  moved_ = true;
  finish_if_complete(w, at);
  if (!(w.runnable & own)) go_on();
}

void executor::pause() {
  warps_[current_->number / 32].paused |= 1u << current_->number % 32;
  go_on();
}

}  // namespace

void set_order(order o, std::uint64_t seed) {
  rule().kind = o;
  rule().seed = seed;
}

void fault(const std::string& what) { throw faulted(what); }

std::string run_block(const std::function<void()>& body, dim3 grid, dim3 block, uint3 index, std::size_t shared_bytes) {
  static thread_local executor mine;
  return mine.run(body, grid, block, index, shared_bytes);
}

bool meet_block(vote kind, bool mine) { return here().meet_block(kind, mine); }
void meet_warp(const char* name, std::uint32_t mask, warp_operation operation, const void* in, void* out) {
  here().meet_warp(name, mask, operation, in, out);
}
void pause() { here().pause(); }

void* dynamic_shared_memory() { return here().shared(); }
std::uint32_t shared_address(const void* p) {
  const std::ptrdiff_t offset = static_cast<const unsigned char*>(p) - static_cast<unsigned char*>(here().shared());
  if (offset < 0 || static_cast<std::size_t>(offset) > here().shared_bytes())
    fault("an address outside of dynamic shared memory is not known here");
  return static_cast<std::uint32_t>(offset) + shared_origin;
}
void* shared_memory_at(std::uint32_t address, std::size_t bytes, std::size_t alignment) {
  const std::size_t offset = address - std::size_t{shared_origin};
  if (address < shared_origin || offset + bytes > here().shared_bytes())
    fault("access to byte " + std::to_string(offset) + " of " + std::to_string(here().shared_bytes()) +
          " of dynamic shared memory");
  if (offset % alignment != 0) fault("an access to shared memory is not aligned to its size");
  return static_cast<unsigned char*>(here().shared()) + offset;
}

void copy_later(std::uint32_t to, const void* from, std::size_t bytes, std::size_t size) {
  if (reinterpret_cast<std::uintptr_t>(from) % size != 0) fault("an asynchronous copy reads at an unaligned address");
  const copy c{shared_memory_at(to, size, size), from, bytes, size};
  if (here().copies_at_once()) return c.run();
  lane_fiber& t = here().current();
  t.copies.push_back(c);
  ++t.open_group;
}
void end_copy_group() {
  lane_fiber& t = here().current();
  t.groups.push_back(t.open_group);
  t.open_group = 0;
}
void await_copy_groups(std::size_t pending) {
  lane_fiber& t = here().current();
  while (t.groups.size() > pending) {
    const auto last = t.copies.begin() + static_cast<std::ptrdiff_t>(t.groups.front());
    for (auto c = t.copies.begin(); c != last; ++c) c->run();
    t.copies.erase(t.copies.begin(), last);
    t.groups.erase(t.groups.begin());
  }
}

}  // namespace simt
