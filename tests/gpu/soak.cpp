#include "tests/backend/soak.hpp"

#include "tests/gpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;

// Deterministic mode: each request's tokens and logits are those that it gets alone. With graphs, as a server has them.
BOOST_AUTO_TEST_CASE(a_hundred_thousand_steps_of_a_random_load) {
  auto m = model::open_model(data("llama3-rope")).value();
  gpu::gpu_options o;
  o.deterministic = true;
  o.max_slots = 8;
  o.max_batched_tokens = 48;
  o.max_model_len = 160;
  o.n_pages = 24;
  check_soaks(
      card_soak(17), [&](auto sinks) { return gpu::make_gpu_backend(m, o, sinks).value(); },
      [&] { return driver(m, o); });
}
