#include "tests/backend/oracle.hpp"
#include "tests/cpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

cpu::cpu_options small() {
  cpu::cpu_options o;
  o.max_slots = 4;
  o.max_batched_tokens = 256;
  o.n_pages = 64;
  o.threads = 2;
  return o;
}

void check(const cpu::cpu_options& o, double kl) {
  for (const oracle_case& c : oracle_cases) check_model(c, {.kl = kl}, [&](auto m) { return driver(m, o); });
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_reference_path_agrees_with_transformers) {
  cpu::cpu_options o = small();
  o.reference = true;
  check(o, 2e-6);
}

BOOST_AUTO_TEST_CASE(the_fast_path_agrees_with_transformers) { check(small(), 5e-6); }
