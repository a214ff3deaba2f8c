#include "src/model/shard.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <random>

using namespace troupe;
using namespace troupe::model;

namespace {

std::string data(const std::string& name) { return std::string(TROUPE_TEST_DATA) + "/model/" + name; }

}  // namespace

BOOST_AUTO_TEST_CASE(slices_of_all_ranks_are_the_whole) {
  std::mt19937 random(7);
  const auto between = [&](std::uint32_t a, std::uint32_t b) { return a + static_cast<std::uint32_t>(random() % (b - a + 1)); };
  std::size_t planned = 0;
  for (int i = 0; i < 2000; ++i) {
    model_config c;
    c.n_kv_heads = between(1, 12);
    c.n_heads = c.n_kv_heads * between(1, 8);
    c.head_dim = 64;
    c.ffn = between(1, 4000);
    c.vocab = between(1, 4000);
    c.hidden = between(1, 1000);
    const std::uint32_t size = between(1, 9), unit = 1u << between(0, 8);
    std::vector<shard> ranks;
    bool refused = false;
    for (std::uint32_t r = 0; r < size; ++r) {
      auto s = plan_shard(c, {r, size}, unit);
      refused = refused || !s;
      if (s) ranks.push_back(*s);
    }
    if (refused) {
      BOOST_TEST(ranks.empty());  // all ranks refuse alike
      continue;
    }
    ++planned;
    const auto covers = [&](slice shard::*which, std::uint32_t total, std::uint32_t run) {
      std::uint32_t at = 0;
      for (const shard& s : ranks) {
        BOOST_TEST((s.*which).begin == at);
        BOOST_TEST((s.*which).count > 0u);
        BOOST_TEST((s.*which).begin % run == 0u);
        at = (s.*which).end();
      }
      BOOST_TEST(at == total);
    };
    covers(&shard::heads, c.n_heads, 1);
    covers(&shard::ffn, c.ffn, unit);
    covers(&shard::vocab, c.vocab, 16);
    covers(&shard::hidden, c.hidden, 16);
    if (size <= c.n_kv_heads) covers(&shard::kv_heads, c.n_kv_heads, 1);
    const std::uint32_t group = c.n_heads / c.n_kv_heads;
    for (const shard& s : ranks) {  // every query head finds its KV head, and local groups are equal
      BOOST_TEST(s.heads.count % s.kv_heads.count == 0u);
      const std::uint32_t local = s.heads.count / s.kv_heads.count;
      for (std::uint32_t h = 0; h < s.heads.count; ++h)
        BOOST_TEST((s.heads.begin + h) / group == s.kv_heads.begin + h / local);
    }
  }
  BOOST_TEST(planned > 500u);
}

BOOST_AUTO_TEST_CASE(a_rank_holds_the_rows_that_its_shard_says) {
  for (const char* name :
       {"llama", "llama-bias", "llama-256/model-Q4_K_M.gguf", "llama3-rope/model-f16.gguf", "llama-fp8"}) {
    const auto whole = open_model(data(name)).value();
    const auto unit = kernels::traits(whole->weights.find(tensor_role::down, 0)->type).block_elements;
    for (const sharing how : {sharing::activations, sharing::sums})
      for (std::uint32_t size : {1u, 2u}) {
        std::vector<std::vector<std::byte>> q(whole->config.n_layers), head(1), down(whole->config.n_layers);
        for (std::uint32_t r = 0; r < size; ++r) {
          const shard s = plan_shard(whole->config, {r, size}, unit).value();
          const auto local = model_of_shard(*whole, s, how).value();
          BOOST_TEST(local->config.n_heads == s.heads.count);
          BOOST_TEST(local->config.vocab == whole->config.vocab);
          const auto take = [&](std::vector<std::byte>& to, const format::tensor_view& t, std::uint32_t rows) {
            BOOST_TEST(t.shape[0] == rows);
            BOOST_TEST(kernels::bytes_of(t.type, t.shape.elements()).value() == t.data.size());
            to.insert(to.end(), t.data.begin(), t.data.end());
          };
          for (std::uint32_t i = 0; i < whole->config.n_layers; ++i) {
            take(q[i], *local->weights.find(tensor_role::q, i), local->config.q_size());
            for (const tensor_role role : {tensor_role::q, tensor_role::o, tensor_role::down})
              BOOST_TEST(local->weights.find(role, i)->scale == whole->weights.find(role, i)->scale);
            const bool rows = how == sharing::activations;
            if (rows || r == 0)
              take(down[i], *local->weights.find(tensor_role::down, i), rows ? s.hidden.count : whole->config.hidden);
          }
          take(head[0], local->weights.head(), s.vocab.count);
        }
        const auto same = [](const std::vector<std::byte>& a, const format::tensor_view& b) {
          return a.size() == b.data.size() && std::memcmp(a.data(), b.data.data(), a.size()) == 0;
        };
        for (std::uint32_t i = 0; i < whole->config.n_layers; ++i) {
          BOOST_TEST(same(q[i], *whole->weights.find(tensor_role::q, i)));
          BOOST_TEST(same(down[i], *whole->weights.find(tensor_role::down, i)));
        }
        BOOST_TEST(same(head[0], whole->weights.head()));
      }
  }
}

BOOST_AUTO_TEST_CASE(a_degree_that_does_not_divide_is_refused_by_name) {
  model_config c;
  c.n_heads = 9;
  c.n_kv_heads = 3;
  c.head_dim = 64;
  c.ffn = 1536;
  c.vocab = 49152;
  c.hidden = 576;
  BOOST_TEST(plan_shard(c, {0, 2}, 256).value().heads.count == 3u);
  BOOST_TEST(plan_shard(c, {1, 2}, 256).value().heads.count == 6u);
  const auto four = plan_shard(c, {0, 4}, 32);
  BOOST_TEST_REQUIRE(!four);
  BOOST_TEST(four.error().message.find("tensor-parallel-size 4: 9 heads over 3 KV heads") != std::string::npos);
  BOOST_TEST(!plan_shard(c, {3, 3}, 32));
  c.ffn = 300;
  BOOST_TEST(!plan_shard(c, {0, 3}, 256));
}
