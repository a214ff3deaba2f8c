#include "tests/backend/gates.hpp"

#include "tests/gpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

/// Deterministic, so that a row beside others draws what it draws alone.
auto make_driver(bool graphs) {
  return [graphs](std::shared_ptr<model::mask_table> masks, std::chrono::milliseconds patience) {
    static const auto m = model::open_model(data("llama3-rope")).value();
    gpu::gpu_options o = small(kernels::dtype::bf16, kernels::gpu::kv_type::bf16);
    o.deterministic = true;
    o.graphs = graphs;
    o.max_slots = 8;
    o.max_batched_tokens = 100;
    o.mask_patience = patience;
    return driver(m, o, std::move(masks));
  };
}

}  // namespace

BOOST_AUTO_TEST_CASE(gated_rows_draw_what_their_masks_allow) { check_gates(make_driver(false)); }
BOOST_AUTO_TEST_CASE(gated_rows_in_graphs_draw_what_their_masks_allow) { check_gates(make_driver(true)); }
BOOST_AUTO_TEST_CASE(rows_without_a_mask_fail_alone) { check_gates_that_fail(make_driver(true)); }
BOOST_AUTO_TEST_CASE(masks_come_while_plans_are_launched) { check_gates_in_flight(make_driver(true)); }
