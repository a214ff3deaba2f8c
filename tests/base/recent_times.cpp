#include "src/base/recent_times.hpp"

#include <boost/test/unit_test.hpp>

using troupe::recent_times;

BOOST_AUTO_TEST_CASE(percentiles_of_times_are_those_of_nearest_rank) {
  recent_times t;
  BOOST_TEST(t.count() == 0u);
  BOOST_TEST(t.microseconds(0.5) == 0.0);
  t.add(7000);
  for (double share : {0.0, 0.5, 0.99, 1.0}) BOOST_TEST(t.microseconds(share) == 7.0);
  t.add(3000);
  BOOST_TEST(t.microseconds(0.5) == 3.0);
  BOOST_TEST(t.microseconds(0.99) == 7.0);
  for (std::uint64_t i = 98; i > 0; --i) t.add(10'000 + i);
  BOOST_TEST(t.count() == 100u);
  BOOST_TEST(t.microseconds(0.01) == 3.0);
  BOOST_TEST(t.microseconds(0.02) == 7.0);
  BOOST_TEST(t.microseconds(1.0) == 10.098);
  BOOST_TEST(t.text() == "10.0 us (p50), 10.1 us (p99)");
}

BOOST_AUTO_TEST_CASE(old_times_give_way_to_new_ones) {
  recent_times t;
  for (int i = 0; i < 5000; ++i) t.add(1'000'000);
  for (int i = 0; i < 600; ++i) t.add(2000);
  BOOST_TEST(t.count() == 5600u);
  BOOST_TEST(t.microseconds(1.0) == 2.0);
}
