#include <boost/test/unit_test.hpp>
#include <random>

#include "src/sched/cost_model.hpp"

using troupe::sched::cost_model;
using troupe::sched::step_shape;

namespace {

step_shape chunk(std::uint32_t position, std::uint32_t n) {
  step_shape s;
  s.add(position, n);
  return s;
}
double truth(step_shape s) { return 2e6 + 3e4 * s.tokens + 12 * s.work; }

}  // namespace

BOOST_AUTO_TEST_CASE(work_is_what_every_token_attends_to) {
  BOOST_TEST(chunk(0, 3).work == 6.0);
  BOOST_TEST(chunk(10, 2).work == 11.0 + 12.0);
  step_shape parts = chunk(0, 5);
  parts.add(5, 7);
  BOOST_TEST(parts.work == chunk(0, 12).work);
}

BOOST_AUTO_TEST_CASE(the_coefficients_are_found_through_noise_and_monotony) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> noise(0.95, 1.05);
  cost_model m;
  for (int i = 0; i < 3000; ++i) {
    step_shape s;
    const std::uint32_t rows = 1 + random() % 16;
    for (std::uint32_t r = 0; r < rows; ++r) s.add(random() % 4000, 1);
    if (i % 50 == 0) s.add(random() % 4000, 64 + random() % 448);
    m.observe(s, truth(s) * noise(random));
  }
  for (std::uint32_t n : {1u, 16u, 256u, 512u})
    for (std::uint32_t p : {0u, 1000u, 4000u}) {
      const step_shape s = chunk(p, n);
      BOOST_TEST(m.predict(s) == truth(s), boost::test_tools::tolerance(0.12));
    }
}

BOOST_AUTO_TEST_CASE(the_largest_chunk_just_fits) {
  cost_model m;
  for (std::uint32_t n : {1u, 4u, 40u, 200u, 1000u})
    for (std::uint32_t p : {0u, 500u, 8000u}) m.observe(chunk(p, n), truth(chunk(p, n)));
  for (std::uint32_t p : {0u, 3000u, 20000u})
    for (double ns : {1e6, 5e6, 40e6}) {
      const std::uint32_t n = m.largest_chunk(p, ns);
      const double fixed = m.fixed();
      BOOST_TEST(m.predict(chunk(p, n)) - fixed <= ns * 1.0001);
      BOOST_TEST(m.predict(chunk(p, n + 1)) - fixed > ns * 0.9999);
    }
}

BOOST_AUTO_TEST_CASE(before_there_is_enough_to_know_the_guess_is_careful) {
  cost_model m;
  BOOST_TEST(m.largest_chunk(0, 1e6) == cost_model::unlimited);
  BOOST_TEST(m.predict(chunk(0, 100)) == 0.0);
  m.observe(chunk(100, 1), 5e6);  // a decode step: all that is known is 5 ms for a token
  BOOST_TEST(m.largest_chunk(0, 20e6) == 4u);
  BOOST_TEST(m.largest_chunk(0, 0) == 0u);
  // Steps of up to 8 tokens that all take the same time do not promise that 8000 would.
  for (std::uint32_t n = 1; n <= 8; ++n) m.observe(chunk(0, n), 5e6);
  BOOST_TEST(m.largest_chunk(0, 1e9) <= 32u);
}

BOOST_AUTO_TEST_CASE(nonsense_is_not_learned) {
  cost_model m;
  m.observe(step_shape{}, 1e6);
  m.observe(chunk(0, 4), 0);
  m.observe(chunk(0, 4), -1);
  BOOST_TEST(!m.calibrated());
}

BOOST_AUTO_TEST_CASE(a_slower_clock_is_noticed_within_some_steps) {
  cost_model m;
  for (int i = 0; i < 200; ++i) m.observe(chunk(100, 8), 10e6);
  for (int i = 0; i < 30; ++i) m.observe(chunk(100, 8), 20e6);
  BOOST_TEST(m.predict(chunk(100, 8)) == 20e6, boost::test_tools::tolerance(0.05));
}
