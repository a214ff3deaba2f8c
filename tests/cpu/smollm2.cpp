#include "tests/backend/smollm2.hpp"
#include "tests/cpu/driver.hpp"
#include "tests/cpu/hash.hpp"

using namespace troupe;
using namespace troupe::test;

namespace {

constexpr const char* golden_hash = "2daabdd125c6708e92efdc383a3f5b45922e6bbb3fa0b85c2a49542c3c1b4ebd";

struct hashed_score : score {
  std::string hash;
};

hashed_score measure(cpu::cpu_options o, std::size_t most_tokens) {
  o.max_slots = 1;
  o.n_pages = 64;
  o.max_model_len = 1024;
  driver d(model::open_model(real_model("smollm2.gguf")).value(), o);
  bit_hash hash;
  hashed_score s{measure_smollm2(d, most_tokens, [&](const std::vector<float>& row) { hash.add(row); }), {}};
  s.hash = hash.hex();
  return s;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(smollm2, *boost::unit_test::precondition(smollm2_is_there))

BOOST_AUTO_TEST_CASE(the_real_model_agrees_with_transformers) {
  const hashed_score s = measure({}, 1000);
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
  const hashed_score s = measure(o, 24);
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
