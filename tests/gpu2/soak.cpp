#include "tests/backend/soak.hpp"

#include "tests/gpu2/driver.hpp"

using namespace troupe;
using namespace troupe::test;

// Steps of all sizes in any order, so that sums over the cards' own memory and NCCL's take turns; a rank that lost
// count of them would hang or read an older sum. Both ranks draw the same tokens (rank_group), each request those that
// it gets alone.
BOOST_AUTO_TEST_CASE(a_hundred_thousand_steps_of_a_random_load_over_two_cards) {
  auto m = model::open_model(data("llama3-rope")).value();
  gpu::gpu_options o;
  o.deterministic = true;
  o.max_slots = 8;
  o.max_batched_tokens = 160;  // more than a card's multiprocessors
  o.max_model_len = 160;
  o.n_pages = 24;
  // The cards' own ways belong to the group that has run; alone by NCCL the bits are the same.
  check_soaks(
      card_soak(29), [&](auto sinks) { return make_card_ranks(m, o, sinks); },
      [&] { return group_driver(m, o, sums::nccl); });
}
