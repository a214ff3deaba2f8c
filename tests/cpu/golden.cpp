#include <boost/test/unit_test.hpp>

#include "tests/cpu/driver.hpp"
#include "tests/cpu/hash.hpp"

using namespace troupe;
using namespace troupe::test;
using kernels::cpu::isa;

// The bits of logits are the same on every processor, tier and thread count. Where a change of the arithmetic is meant
// (and the tests against transformers still pass), the new hashes are in this test's failure messages.
namespace {

struct golden {
  const char* model;
  const char* hash;
};
constexpr golden goldens[] = {
    {"llama/model-bf16.gguf", "f3d063d60d7194806dbe7ba6415c787e3c1c3735cf4332c0d238cdf16353dbb6"},
    {"llama-bias", "a50fa64306d03b89f206e1caa65d52a2c9360ab43025991e51489dbd875cd9e5"},
    {"llama-yarn", "7b82cbe7eef49c31b2fed2725ab4f1280374fcb119e534c01dbab832956fa501"},
    {"llama-256/model-Q4_K_M.gguf", "b614dcb9706db2fc7e78a19a360d58425267245ed692bcb6ed34a7890c654940"},
    {"llama-fp8", "375341c0a509883ab84ada5068323947120e8806a9ab36cef0d2f15e0b3ea436"},
};

}  // namespace

BOOST_AUTO_TEST_CASE(logits_have_the_bits_they_had) {
  for (const golden& g : goldens) {
    auto m = model::open_model(data(g.model)).value();
    const auto prompts = read_ids(data(std::string(g.model).substr(0, std::string(g.model).find('/'))) + "/prompts.txt");
    for (isa tier : {isa::scalar, isa::avx2, isa::avx512}) {
      if (!kernels::cpu::isa_supported(tier)) continue;
      cpu::cpu_options o;
      o.isa = tier;
      o.threads = 2;
      o.max_slots = 1;
      driver d(m, o);
      bit_hash hash;
      for (const auto& ids : prompts)
        for (const auto& row : d.logits(ids, 50)) hash.add(row);
      const std::string got = hash.hex();
      BOOST_TEST(got == g.hash, g.model << " on " << kernels::cpu::name(tier) << ": " << got);
    }
  }
}
