#include "tests/backend/oracle.hpp"
#include "src/gpu/device_weights.hpp"
#include "tests/gpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;
using kernels::dtype;
using kernels::gpu::kv_type;

BOOST_AUTO_TEST_CASE(float32_agrees_with_transformers_as_the_cpu_does) {
  for (const bool deterministic : {false, true})
    for (const oracle_case& c : oracle_cases) {
      if (deterministic && left_out(c)) continue;
      BOOST_TEST_CONTEXT(c.folder << " " << c.file << (deterministic ? " deterministic" : "")) {
        check_model(c, {.kl = 2e-6}, [&](auto m) {
          gpu::gpu_options o = small(dtype::f32, kv_type::f32);
          o.deterministic = deterministic;
          return driver(m, o);
        });
      }
    }
}

// Tiny models exaggerate rounding: one bf16 rounding is a larger part of 64 random columns than of 4096 trained ones,
// and near ties of their greedy answers flip. The bounds are what the formats allow here, not what real models show.
BOOST_AUTO_TEST_CASE(half_precision_is_near) {
  struct precision {
    dtype type;
    kv_type kv;
    double kl, relative;
  };
  for (const precision& p :
       {precision{dtype::bf16, kv_type::bf16, 2e-3, 4e-2}, precision{dtype::f16, kv_type::f16, 1e-4, 5e-3}})
    for (const oracle_case& c : oracle_cases)
      check_model(c, {.kl = p.kl, .relative = p.relative, .greedy = false, .of_median = c.experts},
                  [&](auto m) { return driver(m, small(p.type, p.kv)); });
}

// Steps of one token have a path of their own.
BOOST_AUTO_TEST_CASE(a_token_at_a_time_is_near) {
  for (const kv_type kv : {kv_type::bf16, kv_type::f32})
    for (const oracle_case& c : oracle_cases) {
      if (left_out(c) || (emulated && kv == kv_type::f32)) continue;
      check_model(c, {.kl = 2e-3, .relative = 4e-2, .greedy = false, .chunk = 1, .of_median = c.experts},
                  [&](auto m) { return one_token<driver>(m, small(dtype::bf16, kv)); });
    }
}

// Needs no card: nothing is uploaded. One part: q, k and v are one product although each has a scale of its own.
BOOST_AUTO_TEST_CASE(fp8_weights_stay_packed) {
  auto m = model::open_model(data("llama-fp8")).value();
  const auto w =
      gpu::device_weights::plan(m, gpu::shard_of(*m, {0, 1}).value(), small(dtype::bf16, kv_type::bf16)).value();
  for (const gpu::layer_weights& l : w.layers)
    for (const gpu::linear* x : {&l.qkv, &l.o, &l.gate_up, &l.down}) {
      BOOST_TEST(x->parts.size() == 1u);
      BOOST_TEST((x->parts.front().packed.form == kernels::gpu::packed_form::f8));
    }
  BOOST_TEST(!w.head.packed());
}
