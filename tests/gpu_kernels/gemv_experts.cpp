// Experts of one token.

#include "kernels/gpu/gemv_experts.hpp"

#include <algorithm>
#include <numeric>

#include "tests/gpu_kernels/dense_cases.hpp"
#include "tests/gpu_kernels/norm_half.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace troupe::kernels;
using namespace troupe::kernels::gpu;

namespace {

struct experts {
  std::uint32_t n_experts, n_used;
  dtype type;
};

double rounding(dtype type) { return (type == dtype::f16 ? 0x1p-11 : 0x1p-8) * 1.02; }

/// Routes in poisoned memory, but for the counter; `fill` writes a choice into it.
struct one_token_routes {
  experts c;
  device_array<std::byte> memory;
  expert_routes routes;
  std::vector<std::uint32_t> chosen;
  std::vector<float> shares;

  explicit one_token_routes(const experts& c_)
      : c(c_),
        memory(expert_routes_bytes(c.n_experts, c.n_used, 1)),
        routes(view_expert_routes(memory.get(), c.n_experts, c.n_used, 1)) {
    check(cudaMemset(routes.counts, 0, c.n_experts * sizeof(std::uint32_t)));
  }
  void fill(std::mt19937& rng) {
    chosen.resize(c.n_experts);
    std::iota(chosen.begin(), chosen.end(), 0u);
    std::shuffle(chosen.begin(), chosen.end(), rng);
    chosen.resize(c.n_used);
    std::sort(chosen.begin(), chosen.end());
    for (std::size_t i = 0; i < chosen.size(); ++i) shares.push_back(0.1f + 0.01f * static_cast<float>(rng() % 90));
    check(cudaMemcpy(routes.chosen, chosen.data(), chosen.size() * 4, cudaMemcpyHostToDevice));
    check(cudaMemcpy(routes.shares, shares.data(), shares.size() * 4, cudaMemcpyHostToDevice));
  }
  void fetch() {
    chosen.resize(c.n_used);
    shares.resize(chosen.size());
    check(cudaDeviceSynchronize());
    check(cudaMemcpy(chosen.data(), routes.chosen, chosen.size() * 4, cudaMemcpyDeviceToHost));
    check(cudaMemcpy(shares.data(), routes.shares, shares.size() * 4, cudaMemcpyDeviceToHost));
  }
};

/// One matrix per expert.
struct matrices {
  std::uint32_t rows, cols;
  std::vector<float> values;
  device_array<std::uint8_t> on_device;
  matrices(const experts& c, std::uint32_t r, std::uint32_t k, std::mt19937& rng)
      : rows(r),
        cols(k),
        values(rounded(c.type,
                       random_normal(rng, std::size_t{c.n_experts} * r * k, 1 / std::sqrt(static_cast<float>(k))))),
        on_device(encode(c.type, values)) {}
  double times(std::uint32_t expert, std::uint32_t row, const float* x) const {
    const float* const w = values.data() + (std::size_t{expert} * rows + row) * cols;
    double sum = 0;
    for (std::uint32_t i = 0; i < cols; ++i) sum += double{w[i]} * double{x[i]};
    return sum;
  }
  expert_gemv_args args(const void* x, const one_token_routes& r) const {
    return {on_device, std::uint64_t{rows} * cols * 2, x, r.c.type, rows, cols, r.routes};
  }
};

constexpr experts cases[] = {{4, 1, dtype::bf16},    {8, 2, dtype::f16},    {8, 8, dtype::bf16},
                             {300, 32, dtype::bf16}, {128, 8, dtype::bf16}, {60, 3, dtype::f16}};

}  // namespace

BOOST_AUTO_TEST_SUITE(gpu_gemv_experts)

BOOST_AUTO_TEST_CASE(the_router_s_logits_choose_as_route_experts_does) {
  std::mt19937 rng(21);
  for (const experts& c : cases)
    for (const auto [cols, scaled] : {std::pair{8u, false}, {48u, true}, {2048u, false}, {4112u, true}})
      for (const bool renormalized : {true, false}) {
        one_token_routes r(c);
        const norm_half norm(cols, rng);
        const auto weight = rounded(
            c.type, random_normal(rng, std::size_t{c.n_experts} * cols, 1 / std::sqrt(static_cast<float>(cols))));
        const auto x = rounded(c.type, random_normal(rng, cols, scaled ? 5.0f : 1.0f));
        device_array<std::uint8_t> dw(encode(c.type, weight)), dx(encode(c.type, x));
        device_array<float> logits(c.n_experts);
        device_array<std::uint32_t> n(std::vector{1u}), none(std::vector{0u});
        const expert_router_args a{dw,     dx,           c.type,  cols, scaled ? norm.scale() : rms_scale{},
                                   logits, renormalized, r.routes};
        check(gemv_route(a, none, nullptr));
        check(gemv_route(a, n, nullptr));
        check(gemv_route(a, n, nullptr));  // the counter is as it was
        r.fetch();
        const auto have = logits.take();
        std::vector<double> want(c.n_experts);
        for (std::uint32_t e = 0; e < c.n_experts; ++e)
          for (std::uint32_t i = 0; i < cols; ++i)
            want[e] += double{weight[std::size_t{e} * cols + i]} * double{x[i]} * (scaled ? norm.factor : 1);
        BOOST_TEST(relative_error(have, want) <= 2e-6);

        one_token_routes reference(c);  // bit for bit
        device_array<float> same(have);
        check(route_experts(same, renormalized, reference.routes, 8, n, 1, nullptr));
        reference.fetch();
        BOOST_TEST(r.chosen == reference.chosen);
        BOOST_TEST(r.shares == reference.shares);
      }
}

BOOST_AUTO_TEST_CASE(every_chosen_expert_has_its_gated_product) {
  std::mt19937 rng(22);
  for (const experts& c : cases)
    for (const auto [ffn, cols, scaled] : {std::tuple{3u, 8u, false}, {24u, 528u, true}, {17u, 1032u, false}})
      for (const auto activation : {gate_activation::silu, gate_activation::gelu_tanh, gate_activation::gelu_erf}) {
        one_token_routes r(c);
        r.fill(rng);
        const matrices m(c, 2 * ffn, cols, rng);
        const norm_half norm(cols, rng);
        const auto x = rounded(c.type, random_normal(rng, cols, scaled ? 5.0f : 1.0f));
        device_array<std::uint8_t> dx(encode(c.type, x)), y(std::size_t{c.n_used} * ffn * 2);
        device_array<std::uint32_t> n(std::vector{1u}), none(std::vector{0u});
        const rms_scale scale = scaled ? norm.scale() : rms_scale{};
        check(gemv_gated_experts(m.args(dx, r), activation, scale, y, none, nullptr));
        BOOST_TEST(untouched(y.take(), 0));
        check(gemv_gated_experts(m.args(dx, r), activation, scale, y, n, nullptr));
        const double factor = scaled ? norm.factor : 1;
        std::vector<double> want;
        for (const std::uint32_t e : r.chosen)
          for (std::uint32_t i = 0; i < ffn; ++i)
            want.push_back(activated(activation, factor * m.times(e, i, x.data())) * factor *
                           m.times(e, ffn + i, x.data()));
        BOOST_TEST(relative_error(decode(c.type, y.take()), want) <= rounding(c.type));
      }
}

BOOST_AUTO_TEST_CASE(the_token_gets_the_sum_of_its_experts) {
  std::mt19937 rng(23);
  for (const experts& c : cases)
    for (const auto [rows, cols] : {std::pair{4u, 8u}, {64u, 768u}, {33u, 264u}, {20u, 2056u}}) {
      one_token_routes r(c);
      r.fill(rng);
      const matrices m(c, rows, cols, rng);
      const auto x = rounded(c.type, random_normal(rng, std::size_t{c.n_used} * cols));
      device_array<std::uint8_t> dx(encode(c.type, x));
      device_array<std::uint32_t> n(std::vector{1u}), none(std::vector{0u});
      std::vector<double> sums(rows);
      for (std::uint32_t i = 0; i < rows; ++i)
        for (std::size_t j = 0; j < c.n_used; ++j)
          sums[i] += double{r.shares[j]} * m.times(r.chosen[j], i, x.data() + j * cols);
      const auto before = random_normal(rng, rows, 3);
      auto with_before = sums;
      for (std::size_t i = 0; i < rows; ++i) with_before[i] += double{before[i]};

      device_array<float> out(rows), h(before);
      check(gemv_combine_experts(m.args(dx, r), out, false, n, nullptr));
      BOOST_TEST(relative_error(out.take(), sums) <= 2e-6);
      check(gemv_combine_experts(m.args(dx, r), h, true, none, nullptr));
      BOOST_TEST((h.take() == before));
      check(gemv_combine_experts(m.args(dx, r), h, true, n, nullptr));
      BOOST_TEST(relative_error(h.take(), with_before) <= 2e-6);
      if (c.type != dtype::bf16 || rows % 4 != 0) continue;

      // The same as a part of the residual stream, with half of the next norm.
      const auto weight = random_normal(rng, rows);
      device_array<std::uint8_t> weighted(std::size_t{rows} * 2);
      device_array<float> squares(rows / 4), dweight(weight);
      h.put(before);
      gemv_residual_args a{};
      a.rows = rows;
      a.h = h;
      a.norm_weight = dweight;
      a.weighted = weighted;
      a.squares = squares;
      check(gemv_residual_experts(m.args(dx, r), a, none, nullptr));
      BOOST_TEST((h.take() == before));
      check(gemv_residual_experts(m.args(dx, r), a, n, nullptr));
      const auto have = h.take();
      BOOST_TEST(relative_error(have, with_before) <= 2e-6);
      check_norm_half(have, weight, weighted.take(), squares.take());
    }
}

BOOST_AUTO_TEST_CASE(what_it_does_not_take_is_refused) {
  const one_token_routes r({8, 2, dtype::bf16}), many({64, 33, dtype::bf16});
  const auto refused = [](const expert_gemv_args& a) {
    return gemv_combine_experts(a, nullptr, false, nullptr, nullptr) == cudaErrorInvalidValue &&
           gemv_gated_experts(a, gate_activation::silu, {}, nullptr, nullptr, nullptr) == cudaErrorInvalidValue;
  };
  BOOST_TEST(refused({nullptr, 0, nullptr, dtype::f32, 8, 8, r.routes}));
  BOOST_TEST(refused({nullptr, 0, nullptr, dtype::bf16, 8, 12, r.routes}));
  BOOST_TEST(refused({nullptr, 0, nullptr, dtype::bf16, 8, 8, many.routes}));
}

BOOST_AUTO_TEST_SUITE_END()
