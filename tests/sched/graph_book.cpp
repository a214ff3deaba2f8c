#include <boost/test/unit_test.hpp>

#include "src/sched/graph_book.hpp"

using namespace troupe;
using model::graph_key;

namespace {

std::vector<model::plan_row> decodes(std::size_t n) {
  model::plan_row r{};
  r.kind = model::row_kind::decode;
  r.input = model::row_input::last_token;
  r.output = model::row_output::sample;
  r.n_tokens = 1;
  return std::vector<model::plan_row>(n, r);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_size_runs_eagerly_once_and_is_captured_then) {
  sched::graph_book book({1, 2, 4, 8});
  BOOST_TEST(!book.next());
  BOOST_TEST((book.key_for(decodes(3)) == graph_key{}));
  BOOST_TEST((book.next() == graph_key{4, 4, 0}));
  BOOST_TEST(!book.next());
  BOOST_TEST((book.key_for(decodes(3)) == graph_key{4, 4, 0}));
  BOOST_TEST((book.key_for(decodes(4)) == graph_key{4, 4, 0}));
  BOOST_TEST((book.key_for(decodes(9)) == graph_key{}));
  BOOST_TEST(!book.next());
}

BOOST_AUTO_TEST_CASE(only_steps_of_single_drawn_tokens_have_a_key) {
  sched::graph_book book({1, 2, 4}, true);
  while (book.next()) {
  }
  auto rows = decodes(2);
  BOOST_TEST((book.key_for(rows) == graph_key{2, 2, 0}));
  rows[1].kind = model::row_kind::chunk;
  BOOST_TEST((book.key_for(rows) == graph_key{}));
  rows = decodes(2);
  rows[0].output = model::row_output::logits;
  BOOST_TEST((book.key_for(rows) == graph_key{}));
  rows = decodes(2);
  rows[0].gate = model::row_gate::mask;
  BOOST_TEST((book.key_for(rows) == graph_key{}));
}

BOOST_AUTO_TEST_CASE(all_sizes_can_be_captured_first) {
  sched::graph_book book({1, 2}, true);
  BOOST_TEST((book.next() == graph_key{1, 1, 0}));
  BOOST_TEST((book.next() == graph_key{2, 2, 0}));
  BOOST_TEST(!book.next());
  BOOST_TEST((sched::graph_book({}).key_for(decodes(1)) == graph_key{}));
}
