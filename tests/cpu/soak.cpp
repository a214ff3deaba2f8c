#include "tests/backend/soak.hpp"

#include "tests/cpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;

// Fewer steps than the GPU's soak: the CPU has no races between host and device, and the test is to end within two
// minutes on two cores that others use too.
BOOST_AUTO_TEST_CASE(many_steps_of_a_random_load, *boost::unit_test::label("slow")) {
  auto m = model::open_model(data("llama3-rope")).value();
  cpu::cpu_options o;
  o.threads = 2;
  o.max_slots = 8;
  o.max_batched_tokens = 48;
  o.max_model_len = 160;
  o.n_pages = 24;
  soak_options s;
  s.steps = 12'000;
  s.seed = 7;
  check_soaks(
      s, [&](auto sinks) { return cpu::make_cpu_backend(m, o, sinks).value(); }, [&] { return driver(m, o); });
}
