#include "tests/backend/crowd.hpp"
#include "tests/backend/oracle.hpp"
#include "tests/backend/smollm2.hpp"
#include "tests/gpu2/driver.hpp"

using namespace troupe;
using namespace troupe::test;
using kernels::dtype;
using kernels::gpu::kv_type;

namespace {

namespace utf = boost::unit_test;

utf::precondition cards(std::size_t n) {
  return utf::precondition([n](utf::test_unit_id) { return gpu::devices().size() >= n; });
}

void check_float32(std::uint32_t size) {
  for (const auto& [deterministic, way] :
       {std::pair{false, sums::direct}, {true, sums::direct}, {false, sums::nccl}, {true, sums::nccl}}) {
    if (emulated && deterministic == (way == sums::direct)) continue;
    for (const oracle_case& c : oracle_cases) {
      if (left_out(c)) continue;
      auto m = model::open_model(*c.file ? data(c.folder) + "/" + c.file : data(c.folder)).value();
      if (auto s = gpu::shard_of(*m, {0, size}); !s) {
        BOOST_TEST_MESSAGE(c.folder << " " << c.file << ": " << s.error().message);
        BOOST_TEST((s.error().code == errc::unsupported));
        continue;
      }
      BOOST_TEST_CONTEXT(c.folder << " " << c.file << (deterministic ? " deterministic " : " ") << name(way)) {
        check_model(c, {.kl = 2e-6}, [&](auto whole) {
          gpu::gpu_options o = small(dtype::f32, kv_type::f32);
          o.deterministic = deterministic;
          return group_driver(whole, o, way, size);
        });
      }
    }
  }
}

/// By themselves, in chunks and in a crowd rows have the same bits, and the same whoever adds the ranks' parts.
void check_determinism(std::uint32_t size) {
  for (const char* name : {"llama-bias/model-bf16.gguf", "llama3-rope", "mixtral", "mixtral/model-Q8_0.gguf"}) {
    auto m = model::open_model(data(name)).value();
    if (m->config.n_experts && size > 2) continue;  // too narrow
    for (const auto& [type, kv] : {std::pair{dtype::f32, kv_type::f32}, {dtype::bf16, kv_type::e4m3}}) {
      std::mt19937 random(11);
      const auto ids = random_ids(emulated ? 30 : 150, m->config.vocab, random);
      gpu::gpu_options o = small(type, kv);
      o.deterministic = true;
      rows by_nccl;
      for (const sums way : {sums::nccl, sums::direct}) {
        group_driver d(m, o, way, size);
        const rows alone = d.logits(ids, 1000);
        BOOST_TEST(d.ranks().logits_equal());
        d.shuffle_pages(random);
        BOOST_TEST_CONTEXT(name << " " << kernels::name(type) << " " << test::name(way)) {
          BOOST_TEST(same(alone, d.logits(ids, 1)));
          BOOST_TEST(same(alone, d.logits(ids, 7)));
          BOOST_TEST(same(alone, in_a_crowd(d, ids, random, m->config.vocab)));
          if (way == sums::nccl)
            by_nccl = alone;
          else
            BOOST_TEST(same(alone, by_nccl));
        }
      }
    }
  }
}

/// Steps of one token have a path of their own, in which each product sends its rows as soon as they are there.
void check_one_token(std::uint32_t size) {
  for (const sums way : both_ways)
    for (const oracle_case& c : oracle_cases) {
      if (!c.distinct || (emulated && way == sums::nccl)) continue;
      auto m = model::open_model(*c.file ? data(c.folder) + "/" + c.file : data(c.folder)).value();
      if (!gpu::shard_of(*m, {0, size})) continue;
      BOOST_TEST_CONTEXT(name(way))
      check_model(
          c, {.kl = 2e-3, .relative = 4e-2, .greedy = false, .chunk = 1, .of_median = c.experts},
          [&](auto whole) { return one_token<group_driver>(whole, small(dtype::bf16, kv_type::bf16), way, size); },
          [](group_driver& d) { BOOST_TEST(d.ranks().logits_equal()); });
    }
}

/// Captured steps, with their sums over the ranks inside, give the bits of eager ones; sampled on all ranks.
void check_captured(std::uint32_t size) {
  auto m = model::open_model(data("llama3-rope")).value();
  for (const sums way : both_ways) {
    group_driver d(m, small(dtype::bf16, kv_type::bf16), way, size);
    check_graphs(d, m->config.vocab);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(two_ranks_in_float32_agree_with_transformers) { check_float32(2); }
BOOST_AUTO_TEST_CASE(two_ranks_deterministic_alone_is_in_a_crowd) { check_determinism(2); }
BOOST_AUTO_TEST_CASE(two_ranks_graphs_equal_eager_steps) { check_captured(2); }
BOOST_AUTO_TEST_CASE(two_ranks_a_token_at_a_time_are_near) { check_one_token(2); }

BOOST_AUTO_TEST_CASE(four_ranks_in_float32_agree_with_transformers, *cards(4)) { check_float32(4); }
BOOST_AUTO_TEST_CASE(four_ranks_deterministic_alone_is_in_a_crowd, *cards(4)) { check_determinism(4); }
BOOST_AUTO_TEST_CASE(four_ranks_graphs_equal_eager_steps, *cards(4)) { check_captured(4); }
BOOST_AUTO_TEST_CASE(four_ranks_a_token_at_a_time_are_near, *cards(4)) { check_one_token(4); }

// KV heads and columns do not divide evenly here: nine heads over three KV heads on two cards.
BOOST_AUTO_TEST_CASE(two_ranks_say_what_one_says, *boost::unit_test::precondition(smollm2_is_there)) {
  auto m = model::open_model(real_model("smollm2.gguf")).value();
  for (const auto& [type, kv] : {std::pair{dtype::f32, kv_type::f32}, {dtype::bf16, kv_type::bf16}}) {
    gpu::gpu_options o = small(type, kv);
    o.max_model_len = 1024;
    std::vector<std::vector<float>> one;
    {
      driver d(m, o);
      measure_smollm2(d, 1000, [&](const std::vector<float>& row) { one.push_back(row); });
    }
    for (const sums way : both_ways) {
      group_driver d(m, o, way);
      double kl = 0;
      std::size_t at = 0, same_top = 0;
      const score s = measure_smollm2(d, 1000, [&](const std::vector<float>& row) {
        const std::vector<float>& want = one[at++];
        kl += compare_row(row, {want.begin(), want.end()}).kl;
        same_top += std::max_element(row.begin(), row.end()) - row.begin() ==
                    std::max_element(want.begin(), want.end()) - want.begin();
      });
      BOOST_TEST_REQUIRE(at == one.size());
      kl /= static_cast<double>(at);
      BOOST_TEST_MESSAGE(kernels::name(type) << " " << test::name(way) << ": two ranks against one: KL " << kl
                                             << ", top-1 " << static_cast<double>(same_top) / static_cast<double>(at)
                                             << "; against transformers: KL " << s.kl << ", top-1 " << s.top1);
      BOOST_TEST(kl <= 1e-3);
      BOOST_TEST(d.ranks().logits_equal());
    }
  }
}
