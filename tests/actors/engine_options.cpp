// What an engine says of its options once it knows the model.
#include <boost/test/unit_test.hpp>

#include "tests/actors/client.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

engine_options options_of(const std::string& model, std::uint32_t max_model_len) {
  engine_options o = tiny_options();
  o.model = std::string(TROUPE_TEST_DATA) + "/model/" + model;
  o.max_model_len = max_model_len;
  return o;
}

}  // namespace

BOOST_AUTO_TEST_CASE(sequences_are_not_longer_than_the_model_s_context) {
  // The linear model scales positions by 2, so it reaches twice as far as the 512 that it states.
  const std::map<std::string, std::uint32_t> most = {{"llama-bias/model-bf16.gguf", 512},
                                                     {"llama-linear/model-bf16.gguf", 1024},
                                                     {"llama-yarn", 512},
                                                     {"llama3-rope", 512}};
  for (const auto& [model, n] : most) BOOST_TEST_CONTEXT(model) {
      BOOST_TEST(engine::open(options_of(model, n)).info().max_model_len == n);
      const std::string said = "max_model_len " + std::to_string(n + 1) + " is more than the model's context of " +
                               std::to_string(n) + " tokens";
      BOOST_CHECK_EXCEPTION((void)engine::open(options_of(model, n + 1)), error, [&](const error& e) {
        return e.code() == errc::invalid_argument && e.message().starts_with(said);
      });
    }
}
