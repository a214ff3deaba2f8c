#include "src/model/token_mask.hpp"

#include <boost/test/unit_test.hpp>
#include <thread>

using namespace troupe::model;
using namespace std::chrono_literals;
using clock_type = std::chrono::steady_clock;

BOOST_AUTO_TEST_SUITE(token_masks)

BOOST_AUTO_TEST_CASE(bits_are_those_of_the_tokens) {
  token_mask m(70);
  BOOST_TEST(m.words().size() == 3u);
  for (std::uint32_t t : {0u, 31u, 32u, 69u}) m.allow(t);
  BOOST_TEST(m.words()[0] == 0x80000001u);
  BOOST_TEST(m.words()[1] == 1u);
  BOOST_TEST(m.words()[2] == 32u);
}

BOOST_AUTO_TEST_CASE(the_first_word_about_a_mask_stays) {
  token_mask ready(8), gone(8);
  ready.set_ready();
  ready.give_up();
  gone.give_up();
  gone.set_ready();
  BOOST_TEST((ready.state() == mask_state::ready));
  BOOST_TEST((gone.state() == mask_state::given_up));
}

BOOST_AUTO_TEST_CASE(waiting_ends_when_the_mask_comes_or_the_time) {
  token_mask never(8), late(8), gone(8);
  BOOST_TEST((never.wait_until(clock_type::now() - 1s) == mask_state::pending));
  const auto before = clock_type::now();
  BOOST_TEST((never.wait_until(before + 20ms) == mask_state::pending));
  BOOST_TEST((clock_type::now() - before >= 20ms));
  std::jthread other([&] {
    std::this_thread::sleep_for(10ms);
    late.words()[0] = 0x55;
    late.set_ready();
    gone.give_up();
  });
  BOOST_TEST((late.wait_until(clock_type::now() + 60s) == mask_state::ready));
  BOOST_TEST(late.words()[0] == 0x55u);
  BOOST_TEST((gone.wait_until(clock_type::now() + 60s) == mask_state::given_up));
}

BOOST_AUTO_TEST_SUITE_END()
