// Sums over the ranks of a group, all of them on one card here, each with a stream of its own.
#include "kernels/gpu/exchange.hpp"

#include <atomic>
#include <chrono>
#include <memory>

#include "kernels/gpu/gemv.hpp"
#include "kernels/gpu/group.hpp"
#include "tests/gpu_kernels/dense_cases.hpp"
#include "tests/gpu_kernels/norm_half.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace troupe::kernels;
using namespace troupe::kernels::gpu;

namespace {

using words = device_array<std::uint64_t>;
using bytes = device_array<std::uint8_t>;
using clock_type = std::chrono::steady_clock;

/// Inboxes, and who is at which exchange.
class one_card_group {
 public:
  explicit one_card_group(std::uint32_t size, std::uint32_t capacity = 0) : streams_(size), run_(1) {
    memory_.size = size;
    memory_.capacity = capacity ? capacity : exchange_capacity(size);
    const std::vector<std::uint64_t> zeros(std::size_t{2} * size * memory_.capacity);
    for (std::uint32_t r = 0; r < size; ++r) {
      inboxes_.push_back(std::make_unique<words>(zeros));
      memory_.inbox[r] = inboxes_[r]->get();
      test::check(cudaStreamCreateWithFlags(&streams_[r], cudaStreamNonBlocking));
    }
    test::check(cudaHostAlloc(reinterpret_cast<void**>(&given_up_), sizeof *given_up_, cudaHostAllocMapped));
    *given_up_ = 0;
    memory_.given_up = given_up_;
    begin(1);
  }
  ~one_card_group() {
    for (cudaStream_t s : streams_) cudaStreamDestroy(s);
    cudaFreeHost(given_up_);
  }

  void begin(std::uint64_t run) { run_.put(std::vector{run}); }
  exchange_call call(std::uint32_t rank, std::uint32_t index) const {
    exchange_call c{memory_, run_.get(), per_run, index};
    c.memory.rank = rank;
    return c;
  }
  cudaStream_t stream(std::uint32_t rank) const { return streams_[rank]; }
  /// f(rank, its stream) for all, then waits.
  template <class F>
  void everywhere(F&& f) {
    for (std::uint32_t r = 0; r < memory_.size; ++r) test::check(f(r, streams_[r]));
    test::check(cudaDeviceSynchronize());
  }
  void give_up() { std::atomic_ref(*given_up_).store(1); }

  static constexpr std::uint32_t per_run = 3;

 private:
  exchange_memory memory_;
  std::vector<std::unique_ptr<words>> inboxes_;
  std::vector<cudaStream_t> streams_;
  device_array<std::uint64_t> run_;
  std::uint32_t* given_up_ = nullptr;
};

/// What one rank has of a norm.
struct norm_case {
  std::vector<float> part;
  device_array<float> h, dpart, weight;
  bytes out;
  norm_case(std::uint32_t n, std::uint32_t hidden, dtype type, std::span<const float> before,
            std::span<const float> norm_weight, std::mt19937& rng)
      : part(random_normal(rng, std::size_t{n} * hidden)),
        h(before),
        dpart(part),
        weight(norm_weight),
        out(std::size_t{n} * hidden * size_of(type)) {}
  rms_norm_args norm(const float* bias, dtype type, std::uint32_t hidden) const {
    return {h, bias, weight, 0, 1e-5f, out, type, hidden, nullptr};
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(gpu_exchange)

// All blocks of all ranks must fit the card at once here, so many ranks have few tokens.
BOOST_AUTO_TEST_CASE(a_normed_sum_has_the_bits_of_gathering_adding_and_norming) {
  std::mt19937 rng(5);
  for (const auto [size, hidden, n] : {std::array{2u, 64u, 40u},
                                       {2u, 4096u, 8u},
                                       {3u, 576u, 5u},
                                       {8u, 4096u, 1u},
                                       {4u, 8192u, 2u},
                                       {4u, 256u, 6u},
                                       {2u, 100u, 1u}})
    for (const dtype type : compute_types)
      for (const bool add : {true, false}) {
        one_card_group group(size);
        const std::uint32_t rows = n + 1;  // the last one is beyond the step's tokens
        const auto number = count(n);
        // Runs of several exchanges, so that both halves of the inboxes are used again.
        for (std::uint64_t run = 1; run <= 2; ++run) {
          group.begin(run);
          for (std::uint32_t index = 0; index < one_card_group::per_run; ++index) {
            const auto before = random_normal(rng, std::size_t{rows} * hidden, 3), weight = random_normal(rng, hidden),
                       bias_values = random_normal(rng, hidden);
            const device_array<float> bias(bias_values);
            const float* const b = index == 1 ? bias.get() : nullptr;
            std::vector<std::unique_ptr<norm_case>> ranks;
            std::vector<float> parts;
            for (std::uint32_t r = 0; r < size; ++r) {
              ranks.push_back(std::make_unique<norm_case>(rows, hidden, type, before, weight, rng));
              parts.insert(parts.end(), ranks[r]->part.begin(), ranks[r]->part.end());
            }
            norm_case want(rows, hidden, type, before, weight, rng);
            if (!add) want.h.put(std::vector<float>(std::size_t{n} * hidden));
            const device_array<float> all(parts);
            test::run([&](cudaStream_t s) {
              const cudaError_t code =
                  add_parts(want.h, all, size, std::uint64_t{rows} * hidden, std::uint64_t{n} * hidden, s);
              return code != cudaSuccess ? code : rms_norm(want.norm(b, type, hidden), number, n, s);
            });
            group.everywhere([&](std::uint32_t r, cudaStream_t s) {
              return exchange_norm({ranks[r]->norm(b, type, hidden), ranks[r]->dpart, add, group.call(r, index)},
                                   number, rows, s);
            });
            const auto h = want.h.take();
            const auto out = want.out.take();
            for (std::uint32_t r = 0; r < size; ++r) {
              BOOST_TEST((ranks[r]->h.take() == h), size << " ranks, " << hidden << ", rank " << r);
              BOOST_TEST((ranks[r]->out.take() == out), size << " ranks, " << hidden << ", rank " << r);
            }
          }
        }
      }
}

BOOST_AUTO_TEST_CASE(a_residual_product_in_a_group_adds_all_ranks_parts_in_order) {
  std::mt19937 rng(6);
  for (const auto [size, rows, cols] : {std::array{2u, 256u, 512u}, {2u, 64u, 2048u}, {3u, 64u, 136u}, {4u, 128u, 8u}})
    for (const gemv_depth depth : {gemv_depth::two, gemv_depth::four, gemv_depth::eight}) {
      one_card_group group(size, rows);
      const auto one = count(1), none = count(0);
      for (std::uint64_t run = 1; run <= 3; ++run) {
        group.begin(run);
        for (std::uint32_t index = 0; index < one_card_group::per_run; ++index) {
          const auto before = random_normal(rng, rows, 3), norm_weight = random_normal(rng, rows);
          const device_array<float> weight(norm_weight);
          std::vector<std::unique_ptr<bytes>> w, x, weighted;
          std::vector<std::unique_ptr<device_array<float>>> h, squares;
          std::vector<float> sum(rows);
          for (std::uint32_t r = 0; r < size; ++r) {
            w.push_back(std::make_unique<bytes>(encode(dtype::bf16, random_normal(rng, std::size_t{rows} * cols))));
            x.push_back(std::make_unique<bytes>(encode(dtype::bf16, random_normal(rng, cols))));
            weighted.push_back(std::make_unique<bytes>(std::size_t{rows} * 2));
            squares.push_back(std::make_unique<device_array<float>>(rows / 4));
            // Alone, and added to nothing, it is the rank's part.
            h.push_back(std::make_unique<device_array<float>>(std::vector<float>(rows)));
            test::check(gemv_residual({w[r]->get(), x[r]->get(), rows, cols, *h[r], weight, *weighted[r], *squares[r]},
                                      depth, one, nullptr));
            const auto part = h[r]->take();
            for (std::uint32_t i = 0; i < rows; ++i) sum[i] = r == 0 ? part[i] : sum[i] + part[i];
            h[r]->put(before);
          }
          const auto run_with = [&](const std::uint32_t* n) {
            group.everywhere([&](std::uint32_t r, cudaStream_t s) {
              return gemv_residual({w[r]->get(), x[r]->get(), rows, cols, *h[r], weight, *weighted[r], *squares[r],
                                    group.call(r, index)},
                                   depth, n, s);
            });
          };
          run_with(none);
          BOOST_TEST((h[0]->take() == before));
          run_with(one);
          std::vector<float> want(rows);
          for (std::uint32_t i = 0; i < rows; ++i) want[i] = before[i] + sum[i];
          for (std::uint32_t r = 0; r < size; ++r) {
            BOOST_TEST((h[r]->take() == want), size << " ranks, rank " << r);
            check_norm_half(want, norm_weight, weighted[r]->take(), squares[r]->take());
          }
        }
      }
    }
}

// A captured exchange takes its number from the device, so one graph serves all runs.
BOOST_AUTO_TEST_CASE(a_graph_serves_every_run) {
  std::mt19937 rng(7);
  constexpr std::uint32_t size = 2, hidden = 256, n = 3;
  one_card_group group(size);
  const auto number = count(n);
  const std::vector<float> before(std::size_t{n} * hidden), weight(hidden, 1.0f);
  std::unique_ptr<norm_case> ranks[size];
  cudaGraphExec_t graphs[size];
  for (std::uint32_t r = 0; r < size; ++r) {
    ranks[r] = std::make_unique<norm_case>(n, hidden, dtype::bf16, before, weight, rng);
    cudaGraph_t graph;
    test::check(cudaStreamBeginCapture(group.stream(r), cudaStreamCaptureModeThreadLocal));
    for (std::uint32_t index = 0; index < one_card_group::per_run; ++index)
      test::check(
          exchange_norm({ranks[r]->norm(nullptr, dtype::bf16, hidden), ranks[r]->dpart, true, group.call(r, index)},
                        number, n, group.stream(r)));
    test::check(cudaStreamEndCapture(group.stream(r), &graph));
    test::check(cudaGraphInstantiate(&graphs[r], graph, 0));
    test::check(cudaGraphDestroy(graph));
  }
  std::vector<float> want = before;
  for (std::uint64_t run = 1; run <= 20; ++run) {
    group.begin(run);
    group.everywhere([&](std::uint32_t r, cudaStream_t s) { return cudaGraphLaunch(graphs[r], s); });
    for (std::uint32_t k = 0; k < one_card_group::per_run; ++k)
      for (std::size_t i = 0; i < want.size(); ++i) want[i] += ranks[0]->part[i] + ranks[1]->part[i];
    for (const auto& rank : ranks) BOOST_TEST((rank->h.take() == want), run);
  }
  for (cudaGraphExec_t g : graphs) test::check(cudaGraphExecDestroy(g));
}

BOOST_AUTO_TEST_CASE(who_waits_for_nobody_is_released_when_the_group_is_given_up) {
  std::mt19937 rng(8);
  one_card_group group(2);
  const auto one = count(1);
  const std::vector<float> zeros(4096);
  norm_case alone(1, 4096, dtype::f32, zeros, zeros, rng);
  for (std::uint32_t index = 0; index < one_card_group::per_run; ++index)
    test::check(exchange_norm({alone.norm(nullptr, dtype::f32, 4096), alone.dpart, true, group.call(0, index)}, one, 1,
                              group.stream(0)));
  const auto start = clock_type::now();
  while (clock_type::now() - start < std::chrono::milliseconds(200))
    BOOST_REQUIRE(cudaStreamQuery(group.stream(0)) == cudaErrorNotReady);
  group.give_up();
  test::check(cudaStreamSynchronize(group.stream(0)));
  BOOST_TEST((clock_type::now() - start < std::chrono::seconds(5)));
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused) {
  exchange_memory m;
  m.size = 2;
  m.capacity = 4096;
  BOOST_TEST(can_exchange_norm(m, 4096, 1));
  BOOST_TEST(!can_exchange_norm(m, 4096, 2));
  BOOST_TEST(!can_exchange_norm(m, 98, 1));
  m.capacity = 1u << 20;
  BOOST_TEST(can_exchange_norm(m, 8192, 128));
  BOOST_TEST(!can_exchange_norm(m, 16384, 1));
  m.size = 1;
  BOOST_TEST(!can_exchange_norm(m, 4096, 1));
  m.size = exchange_memory::most_ranks + 1;
  BOOST_TEST(!can_exchange_norm(m, 4096, 1));
  exchange_norm_args a{};
  a.norm.hidden = 4096;
  a.norm.type = dtype::bf16;
  BOOST_TEST((exchange_norm(a, nullptr, 1, nullptr) == cudaErrorInvalidValue));
  gemv_residual_args g{};
  g.rows = 4096;
  g.cols = 8;
  g.group.memory.size = 2;
  g.group.memory.capacity = 2048;
  BOOST_TEST((gemv_residual(g, gemv_depth::two, nullptr, nullptr) == cudaErrorInvalidValue));
  for (std::uint32_t size = 2; size <= exchange_memory::most_ranks; ++size)
    BOOST_TEST(exchange_capacity(size) % 4 == 0u);
  BOOST_TEST(can_gemv_residual_in_group(256, gemv_depth::eight, 16));
  BOOST_TEST(!can_gemv_residual_in_group(1u << 20, gemv_depth::two, 132));
}

BOOST_AUTO_TEST_SUITE_END()
