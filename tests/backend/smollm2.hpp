#pragma once
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>

#include "tests/backend/driver.hpp"

/// The real model against transformers in float32 over the same dequantized weights. The fixture and its mathematics:
/// tests/data/make_smollm2.py.
namespace troupe::test {

inline constexpr std::size_t n_top = 64;
inline std::string smollm2_folder() { return std::string(TROUPE_TEST_DATA) + "/smollm2"; }
inline boost::test_tools::assertion_result smollm2_is_there(boost::unit_test::test_unit_id) {
  return std::filesystem::exists(real_model("smollm2.gguf"));
}

struct top_tokens {
  std::vector<std::uint16_t> ids;
  std::vector<float> log_p;
};

inline std::vector<top_tokens> read_top() {
  const auto words = read_u16(smollm2_folder() + "/top.bin");
  std::vector<top_tokens> out;
  for (std::size_t at = 0; at + 3 * n_top <= words.size(); at += 3 * n_top) {
    top_tokens t;
    t.ids.assign(words.begin() + static_cast<std::ptrdiff_t>(at),
                 words.begin() + static_cast<std::ptrdiff_t>(at + n_top));
    t.log_p.resize(n_top);
    std::memcpy(t.log_p.data(), words.data() + at + n_top, n_top * sizeof(float));
    out.push_back(std::move(t));
  }
  return out;
}

inline double divergence(const top_tokens& want, const std::vector<float>& logits) {
  double top = -INFINITY, sum = 0;
  for (float x : logits) top = std::max<double>(top, x);
  for (float x : logits) sum += std::exp(x - top);
  double kl = 0, p_rest = 1, q_rest = 1;
  for (std::size_t i = 0; i < n_top; ++i) {
    const double log_p = want.log_p[i], log_q = logits[want.ids[i]] - top - std::log(sum);
    kl += std::exp(log_p) * (log_p - log_q);
    p_rest -= std::exp(log_p);
    q_rest -= std::exp(log_q);
  }
  if (p_rest > 1e-6 && q_rest > 0) kl += p_rest * std::log(p_rest / q_rest);
  return kl;
}

struct score {
  double kl = 0, top1 = 0;
};

/// Teacher-forced logits of the fixture's prompts, the first most_tokens of each; every row also goes to `see`.
template <class See>
score measure_smollm2(backend_driver& d, std::size_t most_tokens, See&& see) {
  const auto top = read_top();
  score s;
  std::size_t at = 0, n = 0;
  for (auto ids : read_ids(smollm2_folder() + "/prompts.txt")) {
    const std::size_t whole = ids.size();
    ids.resize(std::min(whole, most_tokens));
    const auto rows = d.logits(ids, 100);
    for (std::size_t i = 0; i < rows.size(); ++i, ++n) {
      s.kl += divergence(top.at(at + i), rows[i]);
      s.top1 += std::max_element(rows[i].begin(), rows[i].end()) - rows[i].begin() == top[at + i].ids[0];
      see(rows[i]);
    }
    at += whole;
  }
  s.kl /= static_cast<double>(n);
  s.top1 /= static_cast<double>(n);
  return s;
}

}  // namespace troupe::test
