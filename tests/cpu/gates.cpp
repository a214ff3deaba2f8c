#include "tests/backend/gates.hpp"

#include "tests/cpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

auto make_driver(std::shared_ptr<model::mask_table> masks, std::chrono::milliseconds patience) {
  static const auto m = model::open_model(data("llama3-rope")).value();
  cpu::cpu_options o;
  o.threads = 2;
  o.max_slots = 8;
  o.max_batched_tokens = 100;
  o.n_pages = 100;
  o.mask_patience = patience;
  return driver(m, o, std::move(masks));
}

}  // namespace

BOOST_AUTO_TEST_CASE(gated_rows_draw_what_their_masks_allow) { check_gates(make_driver); }
BOOST_AUTO_TEST_CASE(rows_without_a_mask_fail_alone) { check_gates_that_fail(make_driver); }
BOOST_AUTO_TEST_CASE(masks_come_while_plans_are_launched) { check_gates_in_flight(make_driver); }
