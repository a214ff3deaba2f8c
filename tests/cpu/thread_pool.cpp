#include <boost/test/unit_test.hpp>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "src/cpu/thread_pool.hpp"

using namespace troupe::cpu;

BOOST_AUTO_TEST_CASE(every_tile_is_done_once_and_seen_after_the_barrier) {
  for (std::uint32_t n_threads : {1u, 2u, 3u, 5u}) {
    thread_pool pool(n_threads);
    for (int round = 0; round < 300; ++round) {
      const auto n = static_cast<std::uint32_t>(round % 37);
      const auto chunk = static_cast<std::uint32_t>(1 + round % 5);
      std::vector<int> a(n), b(n);
      std::atomic<int> wrong{0};
      pool.run([&](team& t) {
        for (int phase = 0; phase < 6; ++phase) {
          t.for_tiles(n, chunk, [&](std::uint32_t first, std::uint32_t last) {
            for (std::uint32_t i = first; i < last; ++i) ++a[i];
          });
          t.barrier();
          for (int x : a) wrong += x != phase + 1;
          t.for_tiles(n, chunk, [&](std::uint32_t first, std::uint32_t last) {
            for (std::uint32_t i = first; i < last; ++i) b[i] += 2;
          });
          t.barrier();
        }
      });
      BOOST_TEST_REQUIRE(wrong == 0);
      for (int x : b) BOOST_TEST_REQUIRE(x == 12);
    }
  }
}

BOOST_AUTO_TEST_CASE(an_idle_pool_uses_no_processor) {
  thread_pool pool(3);
  std::atomic<int> calls{0};
  for (int i = 0; i < 10; ++i) pool.run([&](team&) { ++calls; });
  BOOST_TEST(calls == 30);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto used = [] {
    rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec * 1e6 + u.ru_utime.tv_usec + u.ru_stime.tv_sec * 1e6 + u.ru_stime.tv_usec;
  };
  const double before = used();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  BOOST_TEST(used() - before < 5000);
}
