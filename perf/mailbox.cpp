// What a message costs: through a mailbox under load (1, 3, 8 senders on threads of their own), to an actor on the same
// loop, and against asio::post of a closure of the same size in the same run. Also how soon a park protocol without a
// full step in the sender's announcement loses a wake.
#include <benchmark/benchmark.h>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <ctime>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "actors/runtime/actor_cell.hpp"
#include "src/mail/mailbox.hpp"

namespace mail = troupe::mail;
namespace runtime = troupe::runtime;

namespace {

struct payload {
  std::uint64_t a, b, c, d;
};

/// A blocking consumer: what a mailbox costs without an executor behind it.
class sleeper {
 public:
  mail::waker waker() noexcept { return {&wake, this}; }
  void sleep() {
    std::unique_lock lock(mutex_);
    woken_.wait(lock, [this] { return wakes_ != 0; });
    --wakes_;
  }
  bool sleep_for(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    if (!woken_.wait_for(lock, limit, [this] { return wakes_ != 0; })) return false;
    --wakes_;
    return true;
  }

 private:
  static void wake(void* self) noexcept {
    auto& s = *static_cast<sleeper*>(self);
    std::lock_guard lock(s.mutex_);
    ++s.wakes_;
    s.woken_.notify_one();
  }
  std::mutex mutex_;
  std::condition_variable woken_;
  int wakes_ = 0;
};

constexpr std::uint64_t per_round = 1'000'000;

/// Processor time of the calling thread, in the kernel too.
double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

struct costs {
  double wall = 0;           ///< seconds, threads included
  double send = 0;           ///< seconds of processor, all senders
  double receive = 0;        ///< seconds of processor, consumer, its naps and their wakes included
  std::uint64_t parks = 0;
};

/// `per_round` messages from `senders` threads.
void mailbox_round(unsigned senders, costs& all) {
  const double before = thread_seconds();
  const auto start = std::chrono::steady_clock::now();
  auto box = std::make_shared<mail::mailbox<payload>>(4096, senders);
  std::vector<std::thread> threads;
  std::atomic<unsigned> running{senders};
  std::atomic<double> sending{0};
  for (unsigned s = 0; s < senders; ++s) {
    threads.emplace_back([&, to = mail::sender<payload>(box)]() mutable {
      const double begin = thread_seconds();
      for (std::uint64_t i = 0; i < per_round / senders; ++i) {
        while (!to.try_send(payload{i, i, i, i})) std::this_thread::yield();
      }
      sending += thread_seconds() - begin;
      if (--running == 0) to.close();
    });
  }
  sleeper sleep;
  std::vector<payload> batch;
  std::uint64_t sum = 0;
  for (;;) {
    if (box->try_receive(batch, 64) != 0) {
      for (const payload& p : batch) sum += p.a;
      batch.clear();
    } else if (box->drained()) {
      break;
    } else if (box->park(sleep.waker())) {
      ++all.parks;
      sleep.sleep();
    }
  }
  all.receive += thread_seconds() - before;
  for (auto& t : threads) t.join();
  box->disarm();
  benchmark::DoNotOptimize(sum);
  all.send += sending;
  all.wall += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The same as closures posted to an io_context, which has no bound.
double post_round(unsigned senders) {
  const auto start = std::chrono::steady_clock::now();
  asio::io_context context(1);
  auto guard = asio::make_work_guard(context);
  std::vector<std::thread> threads;
  std::uint64_t sum = 0;
  std::atomic<unsigned> running{senders};
  for (unsigned s = 0; s < senders; ++s) {
    threads.emplace_back([&] {
      for (std::uint64_t i = 0; i < per_round / senders; ++i) {
        asio::post(context, [&sum, p = payload{i, i, i, i}] { sum += p.a; });
      }
      if (--running == 0) guard.reset();
    });
  }
  context.run();
  for (auto& t : threads) t.join();
  benchmark::DoNotOptimize(sum);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Both in turn, so that a busy machine is unfair to neither. Counters: ns per message of each, and post over mailbox;
/// what of it is processor time of senders and consumer, and messages per park: this consumer does nothing with a message,
/// so it is faster than a sender and sleeps often, and most of the processor time is the kernel's, for sleep and wake.
void under_load(benchmark::State& state) {
  const auto senders = static_cast<unsigned>(state.range(0));
  costs mailbox;
  double post = 0;
  for (auto _ : state) {
    mailbox_round(senders, mailbox);
    post += post_round(senders);
  }
  const double messages = static_cast<double>(state.iterations() * (per_round / senders * senders));
  state.counters["mailbox_ns"] = mailbox.wall / messages * 1e9;
  state.counters["post_ns"] = post / messages * 1e9;
  state.counters["ratio"] = post / mailbox.wall;
  state.counters["send_ns"] = mailbox.send / messages * 1e9;
  state.counters["receive_ns"] = mailbox.receive / messages * 1e9;
  state.counters["per_park"] = messages / static_cast<double>(std::max<std::uint64_t>(mailbox.parks, 1));
}
BENCHMARK(under_load)->ArgName("senders")->Arg(1)->Arg(3)->Arg(8)->UseRealTime()->Unit(benchmark::kMillisecond);

/// Enqueue and dequeue alone, nobody else about.
void send_and_receive(benchmark::State& state) {
  const auto batch_size = static_cast<std::uint64_t>(state.range(0));
  auto box = std::make_shared<mail::mailbox<payload>>(4096);
  mail::sender<payload> to(box);
  std::vector<payload> batch;
  batch.reserve(64);
  for (auto _ : state) {
    for (std::uint64_t i = 0; i < batch_size; ++i) to.try_send(payload{i, i, i, i});
    box->try_receive(batch, 64);
    benchmark::DoNotOptimize(batch.data());
    batch.clear();
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * batch_size));
}
BENCHMARK(send_and_receive)->Arg(1)->Arg(64);

class adder {
 public:
  using message = payload;
  struct outbox {};
  void on(const payload& p, outbox&) { sum += p.a; }
  std::uint64_t sum = 0;
};

/// To a parked actor on the same loop: send, wake by a post, resume, receive, handle, park.
void to_an_actor_on_the_same_loop(benchmark::State& state) {
  const auto batch_size = static_cast<std::uint64_t>(state.range(0));
  asio::io_context context(1);
  auto guard = asio::make_work_guard(context);
  runtime::loop loop({"perf"}, context);
  runtime::actor_cell<adder> cell(loop, {.name = "adder"});
  auto to = cell.make_sender();
  cell.start({});
  context.poll();
  // The sends come from a handler, as an actor's do, so that posts stay in the thread's own queue.
  std::uint64_t left = 0;
  std::function<void()> step = [&] {
    for (std::uint64_t i = 0; i < batch_size; ++i) to.try_send(payload{i, i, i, i});
    if (--left != 0) asio::post(context, [&] { step(); });
  };
  constexpr std::uint64_t inner = 1000;
  for (auto _ : state) {
    left = inner;
    asio::post(context, [&] { step(); });
    context.poll();
  }
  benchmark::DoNotOptimize(cell.actor().sum);
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * batch_size * inner));
}
BENCHMARK(to_an_actor_on_the_same_loop)->Arg(1)->Arg(8)->Arg(64)->Unit(benchmark::kMicrosecond);

/// What a plain closure to the same loop costs; one post more per batch is the driver's own, here and above.
void post_on_the_same_loop(benchmark::State& state) {
  const auto batch_size = static_cast<std::uint64_t>(state.range(0));
  asio::io_context context(1);
  auto guard = asio::make_work_guard(context);
  std::uint64_t left = 0, sum = 0;
  std::function<void()> step = [&] {
    for (std::uint64_t i = 0; i < batch_size; ++i) asio::post(context, [&sum, p = payload{i, i, i, i}] { sum += p.a; });
    if (--left != 0) asio::post(context, [&] { step(); });
  };
  constexpr std::uint64_t inner = 1000;
  for (auto _ : state) {
    left = inner;
    asio::post(context, [&] { step(); });
    context.poll();
  }
  benchmark::DoNotOptimize(sum);
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations() * batch_size * inner));
}
BENCHMARK(post_on_the_same_loop)->Arg(1)->Arg(8)->Arg(64)->Unit(benchmark::kMicrosecond);

/// Defective on purpose: the sender only loads the word, so the load may run ahead of its message.
struct unfenced : mail::parking {
  static bool announce(std::atomic<std::uint64_t>& state) noexcept {
    if (!(state.load(std::memory_order_relaxed) & parked)) return false;
    return unpark(state);
  }
};

/// One credit, so that nearly every message parks. Counter `lost_after`: messages until a wake was lost, 0 if none was.
template <class Parking>
void until_a_wake_is_lost(benchmark::State& state) {
  constexpr std::uint64_t rounds = 400'000;
  std::uint64_t lost_after = 0;
  for (auto _ : state) {
    auto box = std::make_shared<mail::mailbox<payload, Parking>>(1);
    std::atomic<bool> over{false};
    std::thread producer([&, to = mail::sender<payload, Parking>(box)]() mutable {
      for (std::uint64_t i = 0; i < rounds && !over; ++i) {
        while (!to.try_send(payload{i, i, i, i}) && !over) std::this_thread::yield();
      }
    });
    sleeper sleep;
    std::vector<payload> batch;
    std::uint64_t got = 0;
    while (got < rounds) {
      if (const std::size_t n = box->try_receive(batch, 64)) {
        got += n;
        batch.clear();
      } else if (box->park(sleep.waker()) && !sleep.sleep_for(std::chrono::milliseconds(500))) {
        if (box->in_use() != 0) {  // asleep with a message waiting
          lost_after = got + 1;
          break;
        }
        box->take_back_park();
      }
    }
    over = true;
    producer.join();
  }
  state.counters["lost_after"] = static_cast<double>(lost_after);
}
BENCHMARK(until_a_wake_is_lost<mail::parking>)->Name("lost_wakes/sound")->Iterations(1)->Unit(benchmark::kMillisecond);
BENCHMARK(until_a_wake_is_lost<unfenced>)->Name("lost_wakes/unfenced")->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
