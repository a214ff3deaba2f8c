#include <boost/test/unit_test.hpp>

#include "src/base/result.hpp"

BOOST_AUTO_TEST_CASE(a_code_carries_its_category_and_text) {
  std::error_code code = troupe::errc::overloaded;
  BOOST_TEST(std::string(code.category().name()) == "troupe");
  BOOST_TEST(code.message() == "overloaded");
}

BOOST_AUTO_TEST_CASE(a_failed_result_throws_its_sentence) {
  troupe::result<int> r = troupe::failure(troupe::errc::invalid_file, "model.gguf: ends early: fetch it again");
  BOOST_TEST(!r.ok());
  try {
    (void)r.value();
    BOOST_ERROR("no throw");
  } catch (const troupe::error& e) {
    BOOST_TEST((e.code() == troupe::errc::invalid_file));
    BOOST_TEST(e.message() == "model.gguf: ends early: fetch it again");
  }
}

BOOST_AUTO_TEST_CASE(a_good_result_moves_its_value_out) {
  troupe::result<std::string> r = std::string("x");
  BOOST_TEST(r.ok());
  std::string s = std::move(r).value();
  BOOST_TEST(s == "x");
}
