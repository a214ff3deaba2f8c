#include <boost/test/unit_test.hpp>
#include <set>
#include <vector>

#include "kernels/gpu/ptx.cuh"

// Threads of a block as fibers: who waits for whom, and what is said of those who wait in vain.
using namespace troupe::kernels;
namespace ptx = gpu::ptx;

namespace {

std::string run(unsigned threads, const std::function<void()>& body, std::size_t shared_bytes = 0) {
  return simt::run_block(body, 1, threads, {0, 0, 0}, shared_bytes);
}
bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

/// f under every order.
template <class F>
void in_every_order(F&& f) {
  simt::set_order(simt::order::forward);
  f();
  simt::set_order(simt::order::reversed);
  f();
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    simt::set_order(simt::order::shuffled, seed);
    f();
  }
  simt::set_order(simt::order::forward);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(blocks)

BOOST_AUTO_TEST_CASE(a_barrier_holds_all_threads) {
  in_every_order([] {
    std::vector<unsigned> seen(200);
    unsigned arrived = 0;
    BOOST_TEST(run(200, [&] {
                 for (unsigned round = 1; round <= 3; ++round) {
                   ++arrived;
                   __syncthreads();
                   seen[threadIdx.x] += arrived == 200 * round;
                   __syncthreads();
                 }
               }) == "");
    for (unsigned s : seen) BOOST_TEST(s == 3u);
  });
}

BOOST_AUTO_TEST_CASE(votes_and_reductions_are_over_all) {
  in_every_order([] {
    BOOST_TEST(run(96, [] {
                 const bool last = threadIdx.x == 95;
                 if (!__syncthreads_or(last) || __syncthreads_or(false)) simt::fault("or");
                 if (__syncthreads_and(!last) || !__syncthreads_and(true)) simt::fault("and");
                 const unsigned lane = threadIdx.x % 32;
                 if (!__any_sync(~0u, lane == 7) || __any_sync(~0u, 0)) simt::fault("any");
                 if (__ballot_sync(~0u, lane % 2) != 0xaaaaaaaau) simt::fault("ballot");
                 if (__reduce_min_sync(~0u, lane + 3) != 3 || __reduce_max_sync(~0u, lane) != 31) simt::fault("reduce");
               }) == "");
  });
}

BOOST_AUTO_TEST_CASE(lanes_read_each_other) {
  in_every_order([] {
    BOOST_TEST(run(64, [] {
                 const unsigned lane = threadIdx.x % 32;
                 if (__shfl_xor_sync(~0u, threadIdx.x, 5) != (threadIdx.x ^ 5)) simt::fault("xor");
                 if (__shfl_sync(~0u, lane * 1.5, 11) != 16.5) simt::fault("of one");
                 if (__shfl_up_sync(~0u, lane, 4u) != (lane < 4 ? lane : lane - 4)) simt::fault("up");
                 if (lane < 16 && __shfl_xor_sync(0xffffu, lane, 1) != (lane ^ 1)) simt::fault("half a warp");
               }) == "");
  });
}

// Who has ended is not waited for.
BOOST_AUTO_TEST_CASE(threads_may_end_early) {
  in_every_order([] {
    unsigned n = 0;
    BOOST_TEST(run(100, [&] {
                 if (threadIdx.x % 3 == 0) return;
                 __syncthreads();
                 __syncwarp();
                 ++n;
               }) == "");
    BOOST_TEST(n == 66u);
  });
}

BOOST_AUTO_TEST_CASE(a_deadlock_is_told) {
  in_every_order([] {
    const std::string divided = run(64, [] {
      if (threadIdx.x < 32)
        __syncthreads();
      else if (threadIdx.x == 40)
        __syncthreads();
      else
        __syncwarp();
    });
    BOOST_TEST(has(divided, "deadlock"), divided);
    BOOST_TEST(has(divided, "__syncwarp for lanes 0x100"), divided);
    const std::string kinds = run(32, [] {
      if (threadIdx.x == 3)
        __syncthreads_or(1);
      else
        __syncthreads();
    });
    BOOST_TEST(has(kinds, "different kinds"), kinds);
    const std::string operations = run(32, [] {
      if (threadIdx.x < 4)
        __any_sync(~0u, 1);
      else
        __syncwarp();
    });
    BOOST_TEST(has(operations, "while other lanes"), operations);
    // And the next block runs as if nothing had been.
    BOOST_TEST(run(64, [] { __syncthreads(); }) == "");
  });
}

BOOST_AUTO_TEST_CASE(a_missing_barrier_shows_in_an_order) {
  std::set<bool> found;
  in_every_order([&] {
    const std::string said = run(64, [] {
      __shared__ unsigned from[64];
      from[threadIdx.x] = 100;
      __syncthreads();
      from[threadIdx.x] = threadIdx.x;
      // here one is missing
      if (from[63 - threadIdx.x] != 63 - threadIdx.x) simt::fault("too early");
    });
    found.insert(said.empty());
  });
  BOOST_TEST(found.contains(false));
}

BOOST_AUTO_TEST_CASE(copies_come_by_the_wait_for_them) {
  static const unsigned source[4] __attribute__((aligned(16))) = {1, 2, 3, 4};
  in_every_order([] {
    BOOST_TEST(run(
                   1,
                   [] {
                     auto* const to = ptx::dynamic_shared<unsigned>();
                     ptx::cp_async_16(ptx::shared_address(to), source, 16);
                     ptx::cp_async_commit_group();
                     ptx::cp_async_4(ptx::shared_address(to + 4), source + 2, 4);
                     ptx::cp_async_4(ptx::shared_address(to + 5), source, 0);
                     ptx::cp_async_commit_group();
                     ptx::cp_async_wait_group<1>();
                     if (to[0] != 1 || to[3] != 4) simt::fault("first group");
                     ptx::cp_async_wait_group<0>();
                     if (to[4] != 3 || to[5] != 0) simt::fault("second group");
                   },
                   64) == "");
  });
  // Without the wait they have not come.
  BOOST_TEST(run(
                 1,
                 [] {
                   auto* const to = ptx::dynamic_shared<unsigned>();
                   ptx::cp_async_16(ptx::shared_address(to), source, 16);
                   if (to[0] == 1) simt::fault("at once");
                 },
                 64) == "");
}

BOOST_AUTO_TEST_CASE(shared_memory_has_its_size) {
  const auto copy_to = [](unsigned byte) {
    return run(
        1,
        [byte] {
          alignas(16) static const unsigned zeros[4] = {};
          ptx::cp_async_16(ptx::shared_address(ptx::dynamic_shared<char>()) + byte, zeros, 16);
        },
        64);
  };
  BOOST_TEST(copy_to(48) == "");
  BOOST_TEST(has(copy_to(64), "byte 64 of 64"));
  BOOST_TEST(has(copy_to(8), "not aligned"));
}

BOOST_AUTO_TEST_CASE(who_waits_for_memory_lets_others_run) {
  in_every_order([] {
    std::uint64_t word = 0;
    BOOST_TEST(run(70, [&] {
                 if (threadIdx.x == 50) ptx::store_relaxed_sys(&word, 7);
                 while (ptx::load_relaxed_sys(&word) != 7) {
                 }
               }) == "");
  });
}

BOOST_AUTO_TEST_SUITE_END()
