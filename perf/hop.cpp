// What a hop costs: a message to an actor whose loop sleeps in its io_context, and back. Half a round trip is a hop:
// send, wake the thread, resume the actor, handle. The same with bare posts shows what the actor adds.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "actors/runtime/actor_cell.hpp"
#include "actors/runtime/system.hpp"

namespace mail = troupe::mail;
namespace runtime = troupe::runtime;

namespace {

using clock_type = std::chrono::steady_clock;

struct ball {
  std::uint64_t bounces_left;
};

struct finish_line {
  std::mutex mutex;
  std::condition_variable done;
  bool over = false;

  void cross() {
    std::lock_guard lock(mutex);
    over = true;
    done.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex);
    done.wait(lock, [this] { return over; });
    over = false;
  }
};

class player {
 public:
  using message = ball;
  struct outbox {
    mail::sender<ball> other;
  };
  explicit player(finish_line& end) : end_(end) {}
  void on(const ball& b, outbox& out) {
    if (b.bounces_left == 0) return end_.cross();
    out.other.try_send(ball{b.bounces_left - 1});
  }

 private:
  finish_line& end_;
};

/// Microseconds per hop.
void report_hops(benchmark::State& state, clock_type::duration spent, std::uint64_t bounces) {
  const double micros = std::chrono::duration<double, std::micro>(spent).count();
  state.counters["hop_us"] = micros / static_cast<double>(state.iterations() * bounces);
}

void actor_to_actor(benchmark::State& state) {
  constexpr std::uint64_t bounces = 2000;
  finish_line end;
  runtime::system system({.fold = state.range(0) != 0});
  runtime::actor_cell<player> a(system.add("a"), {.name = "a"}), b(system.add("b"), {.name = "b"});
  a.start({b.make_sender()}, end);
  b.start({a.make_sender()}, end);
  auto serve = a.make_sender();
  system.start();
  const auto start = clock_type::now();
  for (auto _ : state) {
    serve.try_send(ball{bounces});
    end.wait();
  }
  report_hops(state, clock_type::now() - start, bounces);
  system.stop(std::chrono::seconds(10));
}
BENCHMARK(actor_to_actor)->ArgName("folded")->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMillisecond);

void post_to_post(benchmark::State& state) {
  constexpr std::uint64_t bounces = 2000;
  finish_line end;
  runtime::loop a({"a"}), b({"b"});
  a.start();
  b.start();
  struct bounce {
    asio::io_context* here;
    asio::io_context* there;
    finish_line* end;
    std::uint64_t left;
    void operator()() const {
      if (left == 0) return end->cross();
      asio::post(*there, bounce{there, here, end, left - 1});
    }
  };
  const auto start = clock_type::now();
  for (auto _ : state) {
    asio::post(a.context(), bounce{&a.context(), &b.context(), &end, bounces});
    end.wait();
  }
  report_hops(state, clock_type::now() - start, bounces);
}
BENCHMARK(post_to_post)->UseRealTime()->Unit(benchmark::kMillisecond);

/// A hop to a thread that has slept for a while, as between two requests: one message at a time, its own time stamp.
void to_a_thread_that_slept(benchmark::State& state) {
  struct stamped {
    clock_type::time_point sent;
  };
  struct receiver {
    using message = stamped;
    struct outbox {};
    explicit receiver(finish_line& e, std::vector<double>& us) : end(e), micros(us) {}
    void on(const stamped& s, outbox&) {
      micros.push_back(std::chrono::duration<double, std::micro>(clock_type::now() - s.sent).count());
      end.cross();
    }
    finish_line& end;
    std::vector<double>& micros;
  };
  finish_line end;
  std::vector<double> micros;
  runtime::system system;
  runtime::actor_cell<receiver> cell(system.add("asleep"), {.name = "asleep"});
  cell.start({}, end, micros);
  auto to = cell.make_sender();
  system.start();
  for (auto _ : state) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    to.try_send(stamped{clock_type::now()});
    end.wait();
  }
  system.stop(std::chrono::seconds(10));
  std::sort(micros.begin(), micros.end());
  state.counters["p50_us"] = micros[micros.size() / 2];
  state.counters["p99_us"] = micros[micros.size() * 99 / 100];
}
BENCHMARK(to_a_thread_that_slept)->Iterations(1000)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();
