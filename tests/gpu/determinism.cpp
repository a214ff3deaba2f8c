#include <boost/test/unit_test.hpp>

#include "tests/backend/crowd.hpp"
#include "tests/gpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;
using kernels::dtype;
using kernels::gpu::kv_type;

namespace {

/// With f32, whose products are the slowest ones, one model is enough for an emulated card.
bool left_out(const std::string& name, dtype type) { return emulated && type == dtype::f32 && name != "llama3-rope"; }
/// Of the same kernels with several formats of the cache.
bool repeats(kv_type kv) { return emulated && kv == kv_type::bf16; }

}  // namespace

// Deterministic mode: alone = chunked = in a crowd, bit for bit.
BOOST_AUTO_TEST_CASE(logits_do_not_depend_on_chunks_batches_or_pages) {
  for (const char* name : {"llama-256/model-Q4_K_M.gguf", "llama-bias/model-bf16.gguf", "llama3-rope",
                           "mixtral/model-Q8_0.gguf", "qwen3_moe"}) {
    auto m = model::open_model(data(name)).value();
    for (const auto& [type, kv] :
         {std::pair{dtype::f32, kv_type::f32}, {dtype::bf16, kv_type::bf16}, {dtype::bf16, kv_type::e4m3}}) {
      if (left_out(name, type)) continue;
      std::mt19937 random(11);
      const auto ids = random_ids(emulated ? 30 : 150, m->config.vocab, random);
      gpu::gpu_options o = small(type, kv);
      o.deterministic = true;
      driver d(m, o);
      const rows alone = d.logits(ids, 1000);
      d.shuffle_pages(random);
      BOOST_TEST_CONTEXT(name << " " << kernels::name(type) << " KV " << static_cast<int>(kv)) {
        BOOST_TEST(same(alone, d.logits(ids, 1000)));
        BOOST_TEST(same(alone, d.logits(ids, 1)));
        BOOST_TEST(same(alone, d.logits(ids, 7)));
        BOOST_TEST(same(alone, in_a_crowd(d, ids, random, m->config.vocab)));
      }
    }
  }
}

// The same after a preemption: computed again from prompt and output, in other chunks, on pages that others wrote.
BOOST_AUTO_TEST_CASE(draws_do_not_depend_on_batches_or_preemption) {
  unsigned seed = 12;
  for (const char* name : {"llama-256/model-Q4_K_M.gguf", "llama-bias/model-bf16.gguf", "llama3-rope",
                           "mixtral/model-Q8_0.gguf", "qwen3_moe"}) {
    auto m = model::open_model(data(name)).value();
    for (const auto& [type, kv] :
         {std::pair{dtype::f32, kv_type::f32}, {dtype::bf16, kv_type::bf16}, {dtype::bf16, kv_type::e4m3}}) {
      ++seed;
      if (left_out(name, type) || repeats(kv)) continue;
      BOOST_TEST_CONTEXT(name << " " << kernels::name(type) << " KV " << static_cast<int>(kv)) {
        gpu::gpu_options o = small(type, kv);
        o.deterministic = true;
        check_preempted([&] { return driver(m, o); }, seed);
      }
    }
  }
}

// A captured graph gives the bits of the eager step, whatever its size.
BOOST_AUTO_TEST_CASE(graphs_equal_eager_steps) {
  for (const char* name : {"llama3-rope", "qwen3_moe"})
    BOOST_TEST_CONTEXT(name) {
      auto m = model::open_model(data(name)).value();
      driver d(m, small(dtype::bf16, kv_type::bf16));
      check_graphs(d, m->config.vocab);
      driver one(m, small(dtype::bf16, kv_type::bf16));
      check_graphs(one, m->config.vocab, 1, 1);
    }
}
