#include "kernels/gpu/group.hpp"

#include "kernels/gpu/dense.hpp"
#include "tests/gpu_kernels/dense_cases.hpp"

using namespace troupe;
using namespace troupe::kernels;
using namespace troupe::kernels::gpu;
using test::device_array;

BOOST_AUTO_TEST_SUITE(gpu_group)

BOOST_AUTO_TEST_CASE(parts_are_added_in_the_order_of_ranks) {
  std::mt19937 rng(1);
  for (std::uint32_t size : {1u, 2u, 3u, 8u})
    for (std::uint64_t n : {4ull, 576ull, 4096ull * 5, 4096ull * (test::emulated ? 30 : 300)}) {
      const std::uint64_t stride = n + 12;
      const auto h = test::random_normal(rng, n), parts = test::random_normal(rng, stride * size);
      device_array<float> out(n + 8), in(parts);
      out.put(h);
      test::run([&](cudaStream_t s) { return add_parts(out, in, size, stride, n, s); });
      const auto have = out.take();
      std::size_t wrong = 0;
      for (std::uint64_t i = 0; i < n; ++i) {
        float sum = parts[i];
        for (std::uint32_t r = 1; r < size; ++r) sum += parts[r * stride + i];
        wrong += have[i] != h[i] + sum;
      }
      BOOST_TEST(wrong == 0u, size << " ranks, " << n);
      BOOST_TEST(test::untouched(have, n));
    }
}

BOOST_AUTO_TEST_CASE(parts_of_logits_become_rows) {
  std::mt19937 rng(2);
  for (const std::vector<std::uint32_t>& begin :
       {std::vector<std::uint32_t>{0, 500}, {0, 24576, 49152}, {0, 160, 336, 501}, {0, 32064, 64128, 96192, 128256}}) {
    vocab_parts v{};
    v.size = static_cast<std::uint32_t>(begin.size() - 1);
    for (std::uint32_t r = 0; r <= v.size; ++r) v.begin[r] = begin[r];
    for (std::uint32_t r = 0; r < v.size; ++r) v.ld = std::max(v.ld, begin[r + 1] - begin[r]);
    const std::uint32_t vocab = begin.back();
    for (std::uint32_t n_rows : {1u, 7u}) {
      const auto parts = test::random_normal(rng, std::size_t{v.size} * n_rows * v.ld);
      device_array<float> in(parts), out(std::size_t{n_rows + 1} * vocab);
      test::run([&](cudaStream_t s) { return join_logits(v, in, out, n_rows, s); });
      const auto have = out.take();
      std::size_t wrong = 0;
      for (std::uint32_t t = 0; t < n_rows; ++t)
        for (std::uint32_t r = 0; r < v.size; ++r)
          for (std::uint32_t i = begin[r]; i < begin[r + 1]; ++i)
            wrong += have[std::size_t{t} * vocab + i] != parts[(std::size_t{r} * n_rows + t) * v.ld + i - begin[r]];
      BOOST_TEST(wrong == 0u, vocab << " columns, " << n_rows << " rows");
      BOOST_TEST(test::untouched(have, std::size_t{n_rows} * vocab));
    }
  }
}

// A rank that holds rows [16, 40) of an embedding: theirs, and zeros for all others.
BOOST_AUTO_TEST_CASE(an_embedding_s_part_gives_zeros_for_other_rows) {
  std::mt19937 rng(3);
  const std::uint32_t hidden = 256, first = 16, rows = 24, n = 6;
  const auto table = test::random_normal(rng, std::size_t{rows} * hidden);
  device_array<float> data(table), h(std::size_t{n} * hidden);
  const embedding_table e{data.get(), dtype::f32, hidden * 4, rows, hidden, first};
  const std::vector<input_token> tokens = {0, 15, 16, 39, 40, last_token_of(1)};
  device_array<input_token> in(tokens);
  device_array<std::int32_t> last(std::vector<std::int32_t>{0, 20});
  const auto number = test::count(n);
  test::run([&](cudaStream_t s) { return embed(e, in, last, 1.0f, h, number, n, s); });
  const auto have = h.take();
  const std::int32_t ids[] = {0, 15, 16, 39, 40, 20};
  std::size_t wrong = 0;
  for (std::uint32_t t = 0; t < n; ++t)
    for (std::uint32_t i = 0; i < hidden; ++i) {
      const bool here = ids[t] >= 16 && ids[t] < 40;
      wrong += have[t * hidden + i] != (here ? table[static_cast<std::size_t>(ids[t] - 16) * hidden + i] : 0.0f);
    }
  BOOST_TEST(wrong == 0u);
}

BOOST_AUTO_TEST_SUITE_END()
