#include "src/model/slot_table.hpp"

#include <boost/test/unit_test.hpp>

using namespace troupe;
using namespace troupe::model;

namespace {

/// Plans for a table of four slots and twenty pages, numbered as they come.
struct planner {
  slot_table table;
  step_seq seq = 0;

  explicit planner(std::uint32_t window = 0) : table(shape(), window) {}
  static rank_shape shape() {
    rank_shape s;
    s.vocab = 100;
    s.max_model_len = 200;
    s.max_slots = 4;
    s.max_batched_tokens = 64;
    s.n_pages = {20};
    return s;
  }
  /// Tokens [position, position + n) of slot 1, after pages `deltas` have come; what was said against it.
  std::string step(std::uint32_t position, std::uint32_t n, std::vector<page_delta> deltas = {}, bool admit = false) {
    plan_builder b;
    ++seq;
    if (admit && seq > 1) b.releases = {1};
    if (admit) b.admit(1, {}, 7);
    b.deltas = std::move(deltas);
    plan_row r{};
    r.slot = 1;
    r.kind = row_kind::chunk;
    r.position = position;
    r.n_tokens = n;
    b.tokens = std::vector<token_id>(n, 5);
    b.rows = {r};
    const auto plan = b.build(seq);
    const auto ok = table.apply(plan->view());
    return ok ? "" : ok.error().message;
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(every_position_of_a_row_wants_its_page) {
  planner p;
  BOOST_TEST(p.step(0, 20, {{1, 0, 0, 3}}, true).ends_with("slot 1 has no page at index 1"));
  planner q;
  BOOST_TEST(q.step(0, 20, {{1, 0, 0, 3}, {1, 0, 1, 4}}, true) == "");
  BOOST_TEST(q.step(20, 12) == "");
  BOOST_TEST(q.step(32, 1).ends_with("slot 1 has no page at index 2"));
  planner r;
  BOOST_TEST(r.step(0, 20, {{1, 0, 0, 3}, {1, 0, 1, 4}}, true) == "");
  BOOST_TEST(r.step(20, 30, {{1, 0, 2, 5}}).ends_with("slot 1 has no page at index 3"));
}

BOOST_AUTO_TEST_CASE(a_slot_that_is_admitted_again_has_no_pages) {
  planner p;
  BOOST_TEST(p.step(0, 40, {{1, 0, 0, 3}, {1, 0, 1, 4}, {1, 0, 2, 5}}, true) == "");
  BOOST_TEST(p.step(0, 1, {}, true).ends_with("slot 1 has no page at index 0"));
}

BOOST_AUTO_TEST_CASE(pages_behind_the_window_may_be_missing_others_not) {
  planner p(20);
  BOOST_TEST(p.step(40, 1, {{1, 0, 1, 3}, {1, 0, 2, 4}}, true) == "");  // sees 21 to 40
  BOOST_TEST(p.step(41, 8, {{1, 0, 3, 5}}) == "");
  planner q(20);
  BOOST_TEST(q.step(35, 1, {{1, 0, 2, 4}}, true).ends_with("slot 1 has no page at index 1"));
}
