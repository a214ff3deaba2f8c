// Contexts of several segments, which attention divides among blocks: a made-up model, since the oracle's end at 512.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "tests/backend/crowd.hpp"
#include "tests/gpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;
using kernels::dtype;
using kernels::gpu::kv_type;

namespace {

constexpr std::uint32_t length = 2700, n_long = 64;

std::shared_ptr<const model::model> made_up() {
  const auto path = std::filesystem::temp_directory_path() / "troupe-test-long-context.json";
  std::ofstream(path) << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
    "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "num_hidden_layers": 2, "vocab_size": 512, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false, "torch_dtype": "bfloat16"})";
  auto m = model::open_dummy_model(path.string()).value();
  std::filesystem::remove(path);
  return m;
}

gpu::gpu_options roomy(bool deterministic) {
  gpu::gpu_options o = small(dtype::bf16, kv_type::bf16);
  o.max_slots = n_long + 2;
  o.max_batched_tokens = 512;
  o.max_model_len = 4096;
  o.n_pages = (n_long + 2) * (length / page_tokens + 2);
  o.deterministic = deterministic;
  return o;
}

std::vector<token_id> ids_of(slot_id s) {
  std::mt19937 random(100 + s);
  return random_ids(length, 512, random);
}

/// All but the last token of a sequence.
void fill(backend_driver& d, slot_id s) {
  const auto ids = ids_of(s);
  d.admit(s, {});
  for (std::uint32_t at = 0; at + 1 < length; at += 512) {
    d.chunk(s, at, std::span(ids).subspan(at, std::min(512u, length - 1 - at)), model::row_output::none);
    d.step();
  }
}
void last_token(backend_driver& d, slot_id s) {
  const auto ids = ids_of(s);
  d.chunk(s, length - 1, std::span(ids).last(1), model::row_output::logits);
}
const std::vector<float>& last_row(backend_driver& d, slot_id s) { return d.sinks->at(s)->rows.at(length - 1); }

}  // namespace

// A lone long sequence leaves partial results in the scratch where a layout of its own would put them; many that are
// divided in the next step must find their counters zero all the same.
BOOST_AUTO_TEST_CASE(long_sequences_divided_in_one_step_are_as_alone) {
  const auto m = made_up();
  driver alone(m, roomy(true)), crowd(m, roomy(true));
  fill(crowd, 0);
  last_token(crowd, 0);
  crowd.step();
  for (slot_id s = 1; s <= n_long; ++s) fill(crowd, s);
  for (slot_id s = 1; s <= n_long; ++s) last_token(crowd, s);
  crowd.step();
  for (slot_id s = 0; s <= n_long; ++s) {
    fill(alone, s);
    last_token(alone, s);
    alone.step();
    alone.release(s);
    BOOST_TEST(same({last_row(crowd, s)}, {last_row(alone, s)}), "sequence " << s);
  }
}

// Steps of few tokens attend by a kernel of their own; 64 columns a head, so that it takes them. Pieces of one
// sequence, at times with a token of another, shorter one beside.
BOOST_AUTO_TEST_CASE(a_few_tokens_at_a_time_are_near_over_several_segments) {
  const auto m = made_up();
  driver exact(m, roomy(true)), fast(m, roomy(false));

  const auto ids = ids_of(0), others = ids_of(1);
  for (backend_driver* d : std::initializer_list<backend_driver*>{&exact, &fast}) {
    d->admit(0, {});
    d->admit(1, {});
    std::uint32_t other = 0;
    for (std::uint32_t at = 0, i = 0, n = 0; at < length; at += n, ++i) {
      n = std::min(i % 17 < 16 ? 1 + i % 8 : 260u, length - at);
      d->chunk(0, at, std::span(ids).subspan(at, n), model::row_output::logits);
      if (i % 3 == 0) d->chunk(1, other, std::span(others).subspan(other, 1), model::row_output::none), ++other;
      d->step();
    }
  }
  const auto& want = exact.sinks->at(0)->rows;
  const auto& got = fast.sinks->at(0)->rows;
  BOOST_TEST_REQUIRE(want.size() == got.size());
  double difference = 0, norm = 0;
  for (const auto& [position, row] : want)
    for (std::size_t i = 0; i < row.size(); ++i) {
      const double d = double{row[i]} - double{got.at(position)[i]};
      difference += d * d;
      norm += double{row[i]} * double{row[i]};
    }
  BOOST_TEST_MESSAGE("relative difference " << std::sqrt(difference / norm));
  BOOST_TEST(std::sqrt(difference / norm) <= 4e-2);
}
