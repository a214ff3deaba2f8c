#include <boost/test/unit_test.hpp>
#include <random>

#include "src/text/stop_matcher.hpp"

using troupe::text::stop_matcher;

BOOST_AUTO_TEST_SUITE(stop_strings)

BOOST_AUTO_TEST_CASE(text_that_may_start_a_stop_is_held_back) {
  stop_matcher m({"END"});
  BOOST_TEST(m.append("hello E").text == "hello ");
  BOOST_TEST(m.append("N").text == "");
  BOOST_TEST(m.append("x").text == "ENx");
  auto out = m.append("..END and more");
  BOOST_TEST(out.text == "..");
  BOOST_REQUIRE(out.match.has_value());
  BOOST_TEST(*out.match == 0u);
}

BOOST_AUTO_TEST_CASE(an_unfinished_stop_is_given_back_at_the_end) {
  stop_matcher m({"</s>"});
  BOOST_TEST(m.append("a</").text == "a");
  BOOST_TEST(m.finish() == "</");
}

BOOST_AUTO_TEST_CASE(the_stop_that_ends_first_wins) {
  stop_matcher m({"abcd", "bc"});
  auto out = m.append("xabcd");
  BOOST_REQUIRE(out.match.has_value());
  BOOST_TEST(*out.match == 1u);
  BOOST_TEST(out.text == "xa");
}

BOOST_AUTO_TEST_CASE(cutting_the_text_differently_changes_nothing) {
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops;
    for (unsigned i = 0; i < 1 + random() % 3; ++i) {
      std::string s;
      for (unsigned k = 0; k < 1 + random() % 4; ++k) s += static_cast<char>('a' + random() % 2);
      stops.push_back(s);
    }
    std::string text;
    for (int k = 0; k < 12; ++k) text += static_cast<char>('a' + random() % 3);

    stop_matcher bytewise(stops);
    std::string expected;
    std::optional<std::size_t> expected_match;
    for (char c : text) {
      auto out = bytewise.append(std::string_view(&c, 1));
      expected += out.text;
      if ((expected_match = out.match)) break;
    }
    if (!expected_match) expected += bytewise.finish();

    stop_matcher pieces(stops);
    std::string got;
    std::optional<std::size_t> match;
    for (std::size_t at = 0; at < text.size() && !match;) {
      std::size_t n = 1 + random() % 5;
      auto out = pieces.append(std::string_view(text).substr(at, n));
      got += out.text;
      match = out.match;
      at += n;
    }
    if (!match) got += pieces.finish();
    BOOST_TEST(got == expected);
    BOOST_TEST((match == expected_match));
  }
}

BOOST_AUTO_TEST_SUITE_END()
