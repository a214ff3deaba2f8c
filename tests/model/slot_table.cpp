#include "src/model/slot_table.hpp"

#include <boost/test/unit_test.hpp>
#include <map>
#include <random>

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

// What the table keeps beside the page tables must say what they say, whatever pages come and go.
BOOST_AUTO_TEST_CASE(a_page_written_twice_in_a_step_is_found_and_no_other) {
  rank_shape shape;
  shape.vocab = 100;
  shape.max_model_len = 12 * page_tokens;
  shape.max_slots = 16;
  shape.max_batched_tokens = 64;
  shape.n_pages = {300};
  std::mt19937 rng(24);
  std::size_t n_refused = 0, n_accepted = 0;
  for (int round = 0; round < 300; ++round) {
    slot_table table(shape, 0);
    std::map<std::pair<slot_id, std::uint32_t>, page_id> pages;
    for (step_seq seq = 1; seq <= 12; ++seq) {
      plan_builder b;
      const auto new_page = [&](slot_id slot, std::uint32_t index) {
        const auto page = static_cast<page_id>(rng() % shape.n_pages[0]);
        pages[{slot, index}] = page;
        b.deltas.push_back({slot, 0, index, page});
      };
      for (slot_id slot = 0; slot < shape.max_slots; ++slot) {
        if (seq > 1 && rng() % 8) continue;
        if (seq > 1) b.releases.push_back(slot);
        b.admit(slot, {}, 7);
        for (std::uint32_t i = 0; i < 12; ++i) new_page(slot, i);
      }
      for (int i = 0; i < 3; ++i) new_page(static_cast<slot_id>(rng() % 16), static_cast<std::uint32_t>(rng() % 12));
      std::map<page_id, std::pair<slot_id, std::uint32_t>> written;  // by whom and up to where
      bool twice = false;
      for (std::uint32_t left = shape.max_batched_tokens; left > 0 && b.rows.size() < 6;) {
        plan_row r{};
        r.slot = static_cast<slot_id>(rng() % 16);
        r.kind = row_kind::chunk;
        r.n_tokens = rng() % 2 ? 1 : 1 + static_cast<std::uint32_t>(rng() % std::min(40u, left));
        r.position = static_cast<std::uint32_t>(rng() % (shape.max_model_len - r.n_tokens + 1));
        b.rows.push_back(r);
        left -= r.n_tokens;
        for (std::uint32_t at = r.position; at < r.position + r.n_tokens; ++at) {
          const auto [w, first] = written.try_emplace(pages.at({r.slot, at / page_tokens}), r.slot, 0);
          twice |= !first && (w->second.first != r.slot || w->second.second > at);
          w->second.second = at + 1;
        }
      }
      b.tokens = std::vector<token_id>(shape.max_batched_tokens, 5);
      const auto ok = table.apply(b.build(seq)->view());
      BOOST_REQUIRE_EQUAL(ok.ok(), !twice);
      ++(twice ? n_refused : n_accepted);
      if (!ok) {
        BOOST_REQUIRE(ok.error().message.ends_with("is written twice"));
        break;
      }
      BOOST_REQUIRE_EQUAL(table.batch().rows.size(), b.rows.size());
    }
  }
  BOOST_TEST(n_refused > 50u);
  BOOST_TEST(n_accepted > 500u);
}
