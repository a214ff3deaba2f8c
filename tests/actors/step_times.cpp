// What an engine says of its steps' time, from the ranks' clocks to the text that is scraped.
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <thread>

#include "tests/actors/client.hpp"

using namespace troupe;
using namespace troupe::test;

BOOST_AUTO_TEST_CASE(every_step_is_observed_with_its_host_time) {
  engine e = engine::open(tiny_options());
  client c(e);
  c.ask(tokens_request(1, 20, 30));
  // The scheduler counts its steps after it has sent the tokens.
  for (int i = 0; i < 10'000 && metric(e, "troupe:steps_total") < 30; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const double steps = metric(e, "troupe:steps_total");
  BOOST_TEST(steps >= 30);
  BOOST_TEST(metric(e, "troupe:step_seconds_count") == steps);
  BOOST_TEST(metric(e, "troupe:step_host_seconds_count") == steps);
  BOOST_TEST(metric(e, "troupe:step_host_seconds_sum") > 0);
}
