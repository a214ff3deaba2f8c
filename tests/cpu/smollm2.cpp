#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>

#include "tests/cpu/driver.hpp"
#include "tests/cpu/hash.hpp"

using namespace troupe;
using namespace troupe::test;

// The real model against transformers in float32 over the same dequantized weights. The fixture and its mathematics:
// tests/data/make_smollm2.py.
namespace {

constexpr std::size_t n_top = 64;
constexpr const char* golden_hash = "2daabdd125c6708e92efdc383a3f5b45922e6bbb3fa0b85c2a49542c3c1b4ebd";

std::string folder() { return std::string(TROUPE_TEST_DATA) + "/smollm2"; }
boost::test_tools::assertion_result model_is_there(boost::unit_test::test_unit_id) {
  return std::filesystem::exists(real_model("smollm2.gguf"));
}

struct top_tokens {
  std::vector<std::uint16_t> ids;
  std::vector<float> log_p;
};

std::vector<top_tokens> read_top() {
  const auto words = read_u16(folder() + "/top.bin");
  std::vector<top_tokens> out;
  for (std::size_t at = 0; at + 3 * n_top <= words.size(); at += 3 * n_top) {
    top_tokens t;
    t.ids.assign(words.begin() + static_cast<std::ptrdiff_t>(at), words.begin() + static_cast<std::ptrdiff_t>(at + n_top));
    t.log_p.resize(n_top);
    std::memcpy(t.log_p.data(), words.data() + at + n_top, n_top * sizeof(float));
    out.push_back(std::move(t));
  }
  return out;
}

double divergence(const top_tokens& want, const std::vector<float>& logits) {
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
  std::string hash;
};

score measure(cpu::cpu_options o, std::size_t most_tokens) {
  auto m = model::open_model(real_model("smollm2.gguf")).value();
  o.max_slots = 1;
  o.n_pages = 64;
  o.max_model_len = 1024;
  driver d(m, o);
  const auto top = read_top();
  score s;
  bit_hash hash;
  std::size_t at = 0, n = 0;
  for (auto ids : read_ids(folder() + "/prompts.txt")) {
    const std::size_t whole = ids.size();
    ids.resize(std::min(whole, most_tokens));
    const auto rows = d.logits(ids, 100);
    for (std::size_t i = 0; i < rows.size(); ++i, ++n) {
      s.kl += divergence(top.at(at + i), rows[i]);
      s.top1 += std::max_element(rows[i].begin(), rows[i].end()) - rows[i].begin() == top[at + i].ids[0];
      hash.add(rows[i]);
    }
    at += whole;
  }
  s.kl /= static_cast<double>(n);
  s.top1 /= static_cast<double>(n);
  s.hash = hash.hex();
  return s;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(smollm2, *boost::unit_test::precondition(model_is_there))

BOOST_AUTO_TEST_CASE(the_real_model_agrees_with_transformers) {
  const score s = measure({}, 1000);
  BOOST_TEST_MESSAGE("KL " << s.kl << ", top-1 agreement " << s.top1);
  // The goal for a whole model is 2e-3 and 98.5 %. Activations of 16 bits leave 5e-7, most of it the f16 cache's; with
  // 8 bits it was 2.5e-3 and 96.7 %.
  BOOST_TEST(s.kl <= 2e-6);
  BOOST_TEST(s.top1 >= 0.995);
  BOOST_TEST(s.hash == golden_hash);
}

BOOST_AUTO_TEST_CASE(the_real_model_agrees_on_the_reference_path, *boost::unit_test::label("slow")) {
  cpu::cpu_options o;
  o.reference = true;
  const score s = measure(o, 24);
  BOOST_TEST_MESSAGE("KL " << s.kl << ", top-1 agreement " << s.top1);
  BOOST_TEST(s.kl <= 1e-6);
  BOOST_TEST(s.top1 == 1.0);
}

BOOST_AUTO_TEST_CASE(the_real_model_has_the_same_bits_on_the_scalar_tier, *boost::unit_test::label("slow")) {
  cpu::cpu_options scalar, best;
  scalar.isa = kernels::cpu::isa::scalar;
  scalar.threads = 2;
  best.threads = 1;
  BOOST_TEST(measure(scalar, 12).hash == measure(best, 12).hash);
}

BOOST_AUTO_TEST_SUITE_END()
