#pragma once
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "kernels/common/floats.hpp"
#include "tests/backend/driver.hpp"
#include "tests/simt/emulated.hpp"

/// The tiny models of tests/data/model and their reference logits, for any backend.
namespace troupe::test {

struct oracle_case {
  const char* folder;
  const char* file;       ///< empty: the folder's safetensors
  bool distinct = false;  ///< computes what no other one does
  bool experts = false;
};
inline constexpr oracle_case oracle_cases[] = {
    {"llama", "", true},
    {"llama", "model-bf16.gguf"},
    {"llama-bias", ""},
    {"llama-bias", "model-bf16.gguf", true},
    {"llama-linear", "model-bf16.gguf"},
    {"llama-yarn", ""},
    {"llama-yarn", "model-f16.gguf"},
    {"llama3-rope", "", true},
    {"llama3-rope", "model-f16.gguf"},
    {"llama-256", "model-Q4_K_M.gguf", true},
    {"llama-fp8", "", true},
    {"qwen3", "", true},
    {"qwen3_moe", "", true, true},
    {"qwen3_moe", "model-f16.gguf", false, true},
    {"mixtral", "", false, true},
    {"mixtral", "model-bf16.gguf", true, true},
};
/// Emulated cards take their time.
inline bool left_out(const oracle_case& c) { return emulated && !c.distinct; }

struct distance {
  double kl = 0, relative = 0;
};

/// Mean KL divergence of the reference from what was computed, and relative L2, over the rows of one prompt.
inline distance compare(const std::vector<std::vector<float>>& got, const std::uint16_t* want, std::size_t vocab) {
  distance d;
  double difference = 0, norm = 0;
  for (std::size_t t = 0; t < got.size(); ++t, want += vocab) {
    BOOST_TEST_REQUIRE(got[t].size() == vocab);
    std::vector<double> p(vocab), q(vocab);
    double top_p = -INFINITY, top_q = -INFINITY;
    for (std::size_t i = 0; i < vocab; ++i) {
      p[i] = kernels::f16_to_f32(want[i]);
      q[i] = got[t][i];
      top_p = std::max(top_p, p[i]);
      top_q = std::max(top_q, q[i]);
      difference += (p[i] - q[i]) * (p[i] - q[i]);
      norm += p[i] * p[i];
    }
    double sum_p = 0, sum_q = 0;
    for (std::size_t i = 0; i < vocab; ++i) sum_p += std::exp(p[i] - top_p), sum_q += std::exp(q[i] - top_q);
    const double log_p = top_p + std::log(sum_p), log_q = top_q + std::log(sum_q);
    for (std::size_t i = 0; i < vocab; ++i)
      d.kl += std::exp(p[i] - log_p) * ((p[i] - log_p) - (q[i] - log_q)) / static_cast<double>(got.size());
  }
  d.relative = std::sqrt(difference / norm);
  return d;
}

struct oracle_bounds {
  double kl, relative = 5e-3;
  bool greedy = true;  ///< greedy answers are equal, token by token
  std::uint32_t chunk = 48;
};

/// Logits and greedy answers of a tiny model against its reference; `make_driver(model)` gives a backend_driver.
template <class MakeDriver>
void check_model(const oracle_case& c, const oracle_bounds& bounds, MakeDriver&& make_driver) {
  const std::string folder = data(c.folder);
  auto m = model::open_model(*c.file ? folder + "/" + c.file : folder).value();
  auto d = make_driver(m);
  const auto prompts = read_ids(folder + "/prompts.txt");
  const auto want = read_u16(folder + "/logits.f16");
  const std::size_t vocab = m->config.vocab;
  std::size_t at = 0;
  BOOST_TEST_REQUIRE(prompts.size() >= 2u);
  for (const auto& ids : prompts) {
    const distance x = compare(d.logits(ids, bounds.chunk), want.data() + at * vocab, vocab);
    at += ids.size();
    BOOST_TEST_MESSAGE(c.folder << " " << c.file << " " << ids.size() << " tokens: KL " << x.kl << " rel "
                                << x.relative);
    BOOST_TEST(x.kl <= bounds.kl, c.folder << " " << c.file << " KL " << x.kl);
    BOOST_TEST(x.relative <= bounds.relative, c.folder << " " << c.file << " relative " << x.relative);
  }
  BOOST_TEST(at * vocab == want.size());
  if (!bounds.greedy) return;
  sampling_params greedy;
  greedy.temperature = 0;
  const auto answers = read_ids(folder + "/greedy.txt");
  for (std::size_t k = 0; k < answers.size(); ++k)
    BOOST_TEST(d.generate(prompts[k], answers[k].size(), greedy) == answers[k], boost::test_tools::per_element());
}

}  // namespace troupe::test
