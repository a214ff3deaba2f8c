#pragma once
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numeric>
#include <sstream>

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

/// KL divergence of the reference's row from what was computed, and relative L2.
inline distance compare_row(const std::vector<float>& got, const std::vector<double>& p) {
  const std::size_t vocab = got.size();
  const std::vector<double> q(got.begin(), got.end());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < vocab; ++i) {
    difference += (p[i] - q[i]) * (p[i] - q[i]);
    norm += p[i] * p[i];
  }
  const auto log_sum = [](const std::vector<double>& v) {
    const double top = *std::ranges::max_element(v);
    double sum = 0;
    for (const double x : v) sum += std::exp(x - top);
    return top + std::log(sum);
  };
  const double log_p = log_sum(p), log_q = log_sum(q);
  distance d{.relative = std::sqrt(difference / norm)};
  for (std::size_t i = 0; i < vocab; ++i) d.kl += std::exp(p[i] - log_p) * ((p[i] - log_p) - (q[i] - log_q));
  return d;
}

/// Of the rows of one prompt.
struct distances {
  distance mean, median;
};
inline distances compare(const std::vector<std::vector<float>>& got, const std::uint16_t* want, std::size_t vocab) {
  std::vector<double> kl, relative;
  for (const auto& row : got) {
    BOOST_TEST_REQUIRE(row.size() == vocab);
    std::vector<double> reference(vocab);
    std::transform(want, want + vocab, reference.begin(), kernels::f16_to_f32);
    const distance d = compare_row(row, reference);
    kl.push_back(d.kl);
    relative.push_back(d.relative);
    want += vocab;
  }
  const auto mean = [](const std::vector<double>& v) {
    return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
  };
  const auto median = [](std::vector<double> v) {
    std::ranges::nth_element(v, v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2));
    return v[v.size() / 2];
  };
  return {{mean(kl), mean(relative)}, {median(kl), median(relative)}};
}

struct oracle_bounds {
  double kl, relative = 5e-3;
  bool greedy = true;  ///< greedy answers are equal, token by token
  std::uint32_t chunk = 48;
  /// Of the median row; means may be ten times as far. For experts in half precision: where a router likes two experts
  /// alike, rounding decides, and such a token's logits are far off while its neighbours' are not.
  bool of_median = false;
};

/// Logits and greedy answers of a tiny model against its reference; `make_driver(model)` gives a backend_driver,
/// `after` sees it once it has computed the prompts.
template <class MakeDriver, class After = void (*)(backend_driver&)>
void check_model(
    const oracle_case& c, const oracle_bounds& bounds, MakeDriver&& make_driver,
    After&& after = [](backend_driver&) {}) {
  const std::string folder = data(c.folder);
  auto m = model::open_model(*c.file ? folder + "/" + c.file : folder).value();
  auto d = make_driver(m);
  const auto prompts = read_ids(folder + "/prompts.txt");
  const auto want = read_u16(folder + "/logits.f16");
  const std::size_t vocab = m->config.vocab;
  std::size_t at = 0;
  BOOST_TEST_REQUIRE(prompts.size() >= 2u);
  for (const auto& ids : prompts) {
    const auto [mean, median] = compare(d.logits(ids, bounds.chunk), want.data() + at * vocab, vocab);
    at += ids.size();
    std::ostringstream said;
    said << c.folder << " " << c.file << " " << ids.size() << " tokens: KL mean " << mean.kl << " median " << median.kl
         << ", rel mean " << mean.relative << " median " << median.relative;
    BOOST_TEST_MESSAGE(said.str());
    const auto within = [&](const distance& x, double times) {
      return x.kl <= times * bounds.kl && x.relative <= times * bounds.relative;
    };
    BOOST_TEST(within(mean, bounds.of_median ? 10 : 1), said.str());
    if (bounds.of_median) BOOST_TEST(within(median, 1), said.str());
  }
  BOOST_TEST(at * vocab == want.size());
  after(d);
  if (!bounds.greedy) return;
  sampling_params greedy;
  greedy.temperature = 0;
  const auto answers = read_ids(folder + "/greedy.txt");
  for (std::size_t k = 0; k < answers.size(); ++k)
    BOOST_TEST(d.generate(prompts[k], answers[k].size(), greedy) == answers[k], boost::test_tools::per_element());
}

}  // namespace troupe::test
