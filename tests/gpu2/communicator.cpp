#include "src/gpu/communicator.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <random>

#include "src/gpu/device.hpp"
#include "tests/gpu2/driver.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace troupe::gpu;
using clock_type = std::chrono::steady_clock;

namespace {

/// Two ends on two cards, each with a thread, a stream and some memory.
struct pair_of_ranks {
  static constexpr std::uint64_t most = 1u << 22;
  caller threads[2];
  std::shared_ptr<communicator> ends[2];
  stream streams[2];
  memory data[2];

  explicit pair_of_ranks(sums way = sums::direct) {
    const card_group cards(2, way);
    both([&](std::uint32_t r) {
      ends[r] = cards.join(r);
      streams[r] = make_stream().value();
      data[r] = memory::on_device(3 * most * sizeof(float), "a test").value();
    });
  }
  ~pair_of_ranks() {
    both([&](std::uint32_t r) {
      ends[r].reset();
      streams[r] = {};
      data[r] = {};
    });
  }
  void both(const std::function<void(std::uint32_t)>& f) {
    for (std::uint32_t r = 0; r < 2; ++r) threads[r].start([&f, r] { f(r); });
    for (caller& t : threads) t.wait();
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(after_an_all_reduce_all_ranks_have_the_same_bits) {
  pair_of_ranks p;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const std::uint64_t n : {1ull, 3ull, 576ull, 4096ull, 5 * 4096ull, 64 * 4096ull, 1024 * 4096ull}) {
    std::vector<float> in[2], out[2], gathered[2];
    for (auto& v : in) {
      v.resize(n);
      for (float& x : v) x = normal(random);
    }
    p.both([&](std::uint32_t r) {
      float* const at = p.data[r].at<float>(0);
      out[r].resize(n);
      gathered[r].resize(2 * n);
      (void)check(cudaMemcpy(at, in[r].data(), n * sizeof(float), cudaMemcpyHostToDevice), "copy");
      p.ends[r]->all_gather(at, at + pair_of_ranks::most, n, p.streams[r]).value();
      p.ends[r]->all_reduce(at, n, p.streams[r]).value();
      (void)check(cudaStreamSynchronize(p.streams[r]), "wait");
      (void)check(cudaMemcpy(out[r].data(), at, n * sizeof(float), cudaMemcpyDeviceToHost), "copy");
      (void)check(
          cudaMemcpy(gathered[r].data(), at + pair_of_ranks::most, 2 * n * sizeof(float), cudaMemcpyDeviceToHost),
          "copy");
    });
    std::vector<float> want(n), joined = in[0];
    joined.insert(joined.end(), in[1].begin(), in[1].end());
    for (std::uint64_t i = 0; i < n; ++i) want[i] = in[0][i] + in[1][i];
    for (int r = 0; r < 2; ++r) {
      BOOST_TEST(std::memcmp(out[r].data(), want.data(), n * sizeof(float)) == 0, n);
      BOOST_TEST(std::memcmp(gathered[r].data(), joined.data(), 2 * n * sizeof(float)) == 0, n);
    }
  }
}

// Two groups that wait on the same two cards could wait for each other; and whoever forbids NCCL the way between cards
// forbids it.
BOOST_AUTO_TEST_CASE(two_ranks_do_not_share_a_card) {
  const auto check = [](int first, int second) {
    const auto members = group::make_thread_group(2, {}).value();
    result<void> said[2];
    caller threads[2];
    for (std::uint32_t r = 0; r < 2; ++r)
      threads[r].start([&, r] {
        const device_info card = use_device(r == 0 ? first : second).value();
        said[r] = one_card_each(members[r]->place(), card,
                                [&](std::span<std::byte> b) { return members[r]->share_blocks(b); });
      });
    for (caller& t : threads) t.wait();
    BOOST_TEST(said[0].ok() == said[1].ok());
    return said[1] ? "" : said[1].error().message;
  };
  BOOST_TEST(check(0, 1) == "");
  BOOST_TEST(check(1, 1) == "ranks 0 and 1 have the same card: give one of them another by --device cuda:N");
}

BOOST_AUTO_TEST_CASE(cards_exchange_sums_for_one_group_of_a_process_and_where_it_is_allowed) {
  const auto ways = [](pair_of_ranks& p) {
    const card_group cards(2, sums::nccl);
    std::array<bool, 2> direct{};
    p.both([&](std::uint32_t r) {
      const auto end = cards.join(r);
      cards.connect(*end, r);
      direct[r] = end->direct() != nullptr;
    });
    return direct;
  };
  pair_of_ranks none(sums::nccl);
  BOOST_TEST((ways(none) == std::array{true, true}));
  BOOST_TEST((ways(none) == std::array{true, true}));  // the one before has left
  ::setenv("NCCL_P2P_DISABLE", "1", 1);
  BOOST_TEST((ways(none) == std::array{false, false}));
  ::unsetenv("NCCL_P2P_DISABLE");
  pair_of_ranks first;
  BOOST_TEST((ways(first) == std::array{false, false}));
}

BOOST_AUTO_TEST_CASE(a_rank_that_never_comes_is_given_up) {
  const auto start = clock_type::now();
  use_device(0).value();
  const auto end = communicator::join({0, 2}, make_group_id().value(), std::chrono::seconds(2), group_limit);
  BOOST_TEST_REQUIRE(!end);
  BOOST_TEST((end.error().code == errc::rank_failed));
  BOOST_TEST_MESSAGE(end.error().message);
  BOOST_TEST((clock_type::now() - start < std::chrono::seconds(10)));
}

// A collective that one rank never joins: abort ends the kernel that waits, and the rank's end says so from then on.
BOOST_AUTO_TEST_CASE(abort_ends_a_hanging_collective) {
  pair_of_ranks p;
  float* const at = p.data[0].at<float>(0);
  p.both([&](std::uint32_t r) {  // connections are made by the first
    p.ends[r]->all_reduce(p.data[r].at<float>(0), 1024, p.streams[r]).value();
    (void)check(cudaStreamSynchronize(p.streams[r]), "wait");
  });
  p.threads[0].start([&] { p.ends[0]->all_reduce(at, 1024, p.streams[0]).value(); });
  p.threads[0].wait();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  BOOST_TEST(cudaStreamQuery(p.streams[0]) == cudaErrorNotReady);
  const auto start = clock_type::now();
  for (auto& e : p.ends) e->abort();
  while (cudaStreamQuery(p.streams[0]) == cudaErrorNotReady && clock_type::now() - start < std::chrono::seconds(10))
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  BOOST_TEST_MESSAGE("gone after " << std::chrono::duration<double>(clock_type::now() - start).count() << " s");
  BOOST_TEST(cudaStreamQuery(p.streams[0]) != cudaErrorNotReady);
  BOOST_TEST((clock_type::now() - start < std::chrono::seconds(5)));
  BOOST_TEST(!p.ends[0]->state());
  BOOST_TEST(!p.ends[0]->all_reduce(at, 16, p.streams[0]));
}

// The same inside a model's captured step: the rank that waits is told so by its next poll, and all of it can be
// destroyed.
BOOST_AUTO_TEST_CASE(a_rank_that_stops_ends_the_other_s_step) {
  auto m = model::open_model(data("llama3-rope")).value();
  for (const sums way : both_ways) {
    std::vector<std::shared_ptr<communicator>> ends(2);
    const card_group cards(2, way);
    auto sinks = std::make_shared<recorder>();
    const auto start = clock_type::now();
    {
      rank_group ranks(2, sinks, [&](std::uint32_t r, auto own) -> result<std::unique_ptr<model::backend>> {
        gpu_options o = small(kernels::dtype::bf16, kernels::gpu::kv_type::bf16);
        o.device = static_cast<int>(r);
        o.place = {r, 2};
        ends[r] = cards.join(r);
        return make_gpu_backend(m, o, std::move(own), ends[r]);
      });
      model::plan_builder plan;
      const auto row = [&](std::uint32_t position, model::row_input input) {
        model::plan_row r{};
        r.input = input;
        r.output = model::row_output::sample;
        r.position = position;
        r.n_tokens = 1;
        plan.rows.push_back(r);
      };
      model::step_done done;
      plan.admit(0, {}, 0);
      plan.deltas.push_back({0, 0, 0, 0});
      plan.tokens = {5};
      row(0, model::row_input::literal);
      ranks.launch(plan.build(1)).value();
      BOOST_TEST(ranks.poll(done).value());
      plan.clear();
      plan.graph = {1, 1, 0};
      ranks.launch(plan.build(2, model::plan_kind::warm_up)).value();
      BOOST_TEST(ranks.poll(done).value());
      row(1, model::row_input::last_token);
      plan.rows[0].kind = model::row_kind::decode;
      const auto third = plan.build(3);
      result<bool> polled = false;
      ranks.everywhere([&](std::uint32_t r) {
        if (r == 1) {  // never launches
          std::this_thread::sleep_for(std::chrono::milliseconds(300));
          for (auto& e : ends) e->abort();
          return;
        }
        ranks.rank(0).launch(third).value();
        model::step_done mine;
        while (polled && !*polled) polled = ranks.rank(0).poll(mine);
      });
      BOOST_TEST(!polled);
      BOOST_TEST((polled.error().code == errc::rank_failed));
      BOOST_TEST_MESSAGE(test::name(way) << ": " << polled.error().message);
      ends.clear();
    }
    BOOST_TEST((clock_type::now() - start < std::chrono::seconds(60)));
  }
}
