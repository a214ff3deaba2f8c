#include <boost/test/unit_test.hpp>
#include <troupe/engine.hpp>

// What an engine says when its ranks cannot become processes; that they do is tested from outside
// (tests/program/test_ranks.py).

using namespace troupe;

namespace {

engine_options two_processes() {
  engine_options o;
  o.model = TROUPE_TEST_DATA "/model/llama-bias/model-bf16.gguf";
  o.device = "cpu";
  o.threads = 2;
  o.tensor_parallel_size = 2;
  o.rank_isolation = "process";
  o.rank_start_timeout = 10;
  return o;
}

/// The failure's text; checks its code.
std::string refused(engine_options o, errc code) {
  try {
    engine::open(std::move(o));
  } catch (const error& e) {
    BOOST_TEST((e.code() == code), e.what());
    return e.message();
  }
  return "nothing";
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_host_program_says_where_the_ranks_program_is) {
  engine_options o = two_processes();
  BOOST_TEST(refused(o, errc::invalid_argument).starts_with("rank_program: "));
  o.rank_program = "/no/such/program";
  BOOST_TEST(refused(o, errc::not_found).starts_with("/no/such/program: cannot be started as a rank"));
}

BOOST_AUTO_TEST_CASE(a_rank_that_ends_at_its_start_is_a_failure_with_its_end) {
  engine_options o = two_processes();
  o.rank_program = "/bin/false";
  const std::string said = refused(o, errc::rank_failed);
  BOOST_TEST(said.starts_with("rank 1 (process "), said);
  BOOST_TEST(said.ends_with("ended with exit code 1"), said);
}

BOOST_AUTO_TEST_CASE(options_of_ranks_are_checked) {
  engine_options o = two_processes();
  o.rank_isolation = "container";
  BOOST_TEST(refused(o, errc::invalid_argument).starts_with("rank_isolation 'container'"));
  o = two_processes();
  o.rank_start_timeout = 0;
  BOOST_TEST(refused(o, errc::invalid_argument).starts_with("rank_start_timeout"));
  o = two_processes();
  o.rendezvous = "127.0.0.1:1";
  o.tensor_parallel_size = 1;
  BOOST_TEST(refused(o, errc::invalid_argument).starts_with("rendezvous: there is one rank only"));
  o = two_processes();
  o.rendezvous = "nowhere";
  BOOST_TEST(refused(o, errc::invalid_argument).starts_with("rendezvous: 'nowhere' is no address"));
}
