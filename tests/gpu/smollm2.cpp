#include "tests/backend/smollm2.hpp"
#include "tests/gpu/driver.hpp"

using namespace troupe;
using namespace troupe::test;
using kernels::dtype;
using kernels::gpu::kv_type;

BOOST_AUTO_TEST_SUITE(smollm2, *boost::unit_test::precondition(smollm2_is_there))

// The goal for a whole model: mean KL 2e-3 and 98.5 % of the likeliest tokens; float32 as on the CPU.
BOOST_AUTO_TEST_CASE(the_real_model_agrees_with_transformers) {
  for (const auto& [type, kv, kl, top1] : {std::tuple{dtype::f32, kv_type::f32, 2e-6, 0.995},
                                           {dtype::f16, kv_type::f16, 2e-3, 0.985},
                                           {dtype::bf16, kv_type::bf16, 2e-3, 0.985}}) {
    gpu::gpu_options o = small(type, kv);
    o.max_model_len = 1024;
    driver d(model::open_model(real_model("smollm2.gguf")).value(), o);
    const score s = measure_smollm2(d, 1000, [](const std::vector<float>&) {});
    BOOST_TEST_MESSAGE(kernels::name(type) << ": KL " << s.kl << ", top-1 agreement " << s.top1);
    BOOST_TEST(s.kl <= kl);
    BOOST_TEST(s.top1 >= top1);
  }
}

BOOST_AUTO_TEST_SUITE_END()
