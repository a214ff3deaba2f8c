#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>

#include "tests/cpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;

// Random weights must keep activations finite and of the usual size, however deep the model is.
BOOST_AUTO_TEST_CASE(random_weights_give_usual_logits_through_eighty_layers) {
  const auto path = std::filesystem::temp_directory_path() / ("troupe_dummy_" + std::to_string(std::random_device()()) + ".json");
  std::ofstream(path) << R"({"model_type": "llama", "num_hidden_layers": 80, "hidden_size": 512, "intermediate_size": 1792, "vocab_size": 1000,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 256, "torch_dtype": "bfloat16"})";
  auto m = model::open_dummy_model(path.string());
  std::filesystem::remove(path);
  cpu::cpu_options o;
  o.max_slots = 1;
  o.n_pages = 16;
  o.max_model_len = 256;
  driver d(std::move(m).value(), o);
  std::vector<token_id> ids;
  for (int i = 0; i < 24; ++i) ids.push_back(i * 37 % 1000);
  double squares = 0;
  std::size_t n = 0;
  for (const auto& row : d.logits(ids, 24))
    for (float x : row) {
      BOOST_TEST_REQUIRE(std::isfinite(x));
      squares += double{x} * x;
      ++n;
    }
  // Normalized activations times 512 weights of deviation 0.02.
  BOOST_TEST(std::sqrt(squares / static_cast<double>(n)) == 0.02 * std::sqrt(512.0), boost::test_tools::tolerance(0.25));
}
