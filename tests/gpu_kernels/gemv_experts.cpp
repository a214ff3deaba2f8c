// Experts of few tokens, without rows that are laid out.

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
  std::uint32_t n_experts, n_used, n, max_tokens;
  dtype type;
};

double rounding(dtype type) { return (type == dtype::f16 ? 0x1p-11 : 0x1p-8) * 1.02; }

/// Routes in poisoned memory, but for the counter; `fill` writes a choice into it.
struct few_routes {
  experts c;
  device_array<std::byte> memory;
  expert_routes routes;
  std::vector<std::uint32_t> chosen;
  std::vector<float> shares;

  explicit few_routes(const experts& c_)
      : c(c_),
        memory(expert_routes_bytes(c.n_experts, c.n_used, c.max_tokens)),
        routes(view_expert_routes(memory.get(), c.n_experts, c.n_used, c.max_tokens)) {
    check(cudaMemset(routes.counts, 0, c.n_experts * sizeof(std::uint32_t)));
  }
  void fill(std::mt19937& rng) {
    for (std::uint32_t t = 0; t < c.n; ++t) {
      std::vector<std::uint32_t> all(c.n_experts);
      std::iota(all.begin(), all.end(), 0u);
      std::shuffle(all.begin(), all.end(), rng);
      std::sort(all.begin(), all.begin() + c.n_used);
      chosen.insert(chosen.end(), all.begin(), all.begin() + c.n_used);
    }
    for (std::size_t i = 0; i < chosen.size(); ++i) shares.push_back(0.1f + 0.01f * static_cast<float>(rng() % 90));
    check(cudaMemcpy(routes.chosen, chosen.data(), chosen.size() * 4, cudaMemcpyHostToDevice));
    check(cudaMemcpy(routes.shares, shares.data(), shares.size() * 4, cudaMemcpyHostToDevice));
  }
  void fetch() {
    chosen.resize(std::size_t{c.n} * c.n_used);
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
  expert_gemv_args args(const void* x, const few_routes& r) const {
    return {on_device, std::uint64_t{rows} * cols * 2, x, r.c.type, rows, cols, r.routes};
  }
};

constexpr experts cases[] = {{4, 1, 1, 1, dtype::bf16},  {8, 2, 1, 1, dtype::f16},   {8, 8, 1, 1, dtype::bf16},
                             {60, 4, 2, 2, dtype::bf16}, {128, 8, 3, 4, dtype::f16}, {300, 32, 1, 1, dtype::bf16},
                             {128, 8, 4, 4, dtype::bf16}};

}  // namespace

BOOST_AUTO_TEST_SUITE(gpu_gemv_experts)

BOOST_AUTO_TEST_CASE(the_router_s_logits_choose_as_route_experts_does) {
  std::mt19937 rng(21);
  for (const experts& c : cases)
    for (const auto [cols, scaled] : {std::pair{8u, false}, {48u, true}, {2048u, false}, {4112u, true}})
      for (const bool renormalized : {true, false}) {
        if (scaled && c.max_tokens > 1) continue;
        few_routes r(c);
        const norm_half norm(cols, rng);
        const auto weight = rounded(
            c.type, random_normal(rng, std::size_t{c.n_experts} * cols, 1 / std::sqrt(static_cast<float>(cols))));
        const auto x = rounded(c.type, random_normal(rng, std::size_t{c.n} * cols, scaled ? 5.0f : 1.0f));
        device_array<std::uint8_t> dw(encode(c.type, weight)), dx(std::size_t{c.max_tokens} * cols * 2);
        dx.put(encode(c.type, x));
        device_array<float> logits(std::size_t{c.max_tokens} * c.n_experts);
        device_array<std::uint32_t> n(std::vector{c.n}), none(std::vector{0u});
        const expert_router_args a{dw,     dx,           c.type,  cols, scaled ? norm.scale() : rms_scale{},
                                   logits, renormalized, r.routes};
        check(gemv_route(a, none, c.max_tokens, nullptr));
        check(gemv_route(a, n, c.max_tokens, nullptr));
        check(gemv_route(a, n, c.max_tokens, nullptr));  // the counter is as it was
        r.fetch();
        auto have = logits.take();
        have.resize(std::size_t{c.n} * c.n_experts);
        std::vector<double> want;
        for (std::uint32_t t = 0; t < c.n; ++t)
          for (std::uint32_t e = 0; e < c.n_experts; ++e) {
            double sum = 0;
            for (std::uint32_t i = 0; i < cols; ++i)
              sum += double{weight[std::size_t{e} * cols + i]} * double{x[std::size_t{t} * cols + i]};
            want.push_back(scaled ? sum * norm.factor : sum);
          }
        BOOST_TEST(relative_error(have, want) <= 2e-6);

        // The same choice, bit for bit.
        few_routes reference(c);
        device_array<float> same(std::size_t{c.max_tokens} * c.n_experts);
        same.put(have);
        check(route_experts(same, renormalized, reference.routes, 8, n, c.max_tokens, nullptr));
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
        if (scaled && c.max_tokens > 1) continue;
        few_routes r(c);
        r.fill(rng);
        const matrices m(c, 2 * ffn, cols, rng);
        const norm_half norm(cols, rng);
        const auto x = rounded(c.type, random_normal(rng, std::size_t{c.n} * cols, scaled ? 5.0f : 1.0f));
        device_array<std::uint8_t> dx(std::size_t{c.max_tokens} * cols * 2),
            y(std::size_t{c.max_tokens} * c.n_used * ffn * 2);
        dx.put(encode(c.type, x));
        device_array<std::uint32_t> n(std::vector{c.n});
        check(gemv_gated_experts(m.args(dx, r), activation, scaled ? norm.scale() : rms_scale{}, y, n, c.max_tokens,
                                 nullptr));
        const auto bytes = y.take();
        const std::size_t written = std::size_t{c.n} * c.n_used * ffn;
        BOOST_TEST(untouched(std::span(bytes).subspan(2 * written), 0));
        auto have = decode(c.type, bytes);
        have.resize(written);
        std::vector<double> want;
        for (std::size_t pair = 0; pair < r.chosen.size(); ++pair)
          for (std::uint32_t i = 0; i < ffn; ++i) {
            const float* const from = x.data() + pair / c.n_used * cols;
            const double factor = scaled ? norm.factor : 1;
            want.push_back(activated(activation, factor * m.times(r.chosen[pair], i, from)) * factor *
                           m.times(r.chosen[pair], ffn + i, from));
          }
        BOOST_TEST(relative_error(have, want) <= rounding(c.type));
      }
}

BOOST_AUTO_TEST_CASE(tokens_get_the_sum_of_their_experts) {
  std::mt19937 rng(23);
  for (const experts& c : cases)
    for (const auto [rows, cols] : {std::pair{4u, 8u}, {64u, 768u}, {33u, 264u}, {20u, 2056u}}) {
      few_routes r(c);
      r.fill(rng);
      const matrices m(c, rows, cols, rng);
      const auto x = rounded(c.type, random_normal(rng, std::size_t{c.n} * c.n_used * cols));
      device_array<std::uint8_t> dx(std::size_t{c.max_tokens} * c.n_used * cols * 2);
      dx.put(encode(c.type, x));
      device_array<std::uint32_t> n(std::vector{c.n}), none(std::vector{0u});
      std::vector<double> sums;
      for (std::uint32_t t = 0; t < c.n; ++t)
        for (std::uint32_t i = 0; i < rows; ++i) {
          double sum = 0;
          for (std::uint32_t j = 0; j < c.n_used; ++j) {
            const std::size_t pair = std::size_t{t} * c.n_used + j;
            sum += double{r.shares[pair]} * m.times(r.chosen[pair], i, x.data() + pair * cols);
          }
          sums.push_back(sum);
        }
      const auto before = random_normal(rng, sums.size(), 3);
      for (const bool accumulate : {false, true}) {
        device_array<float> out(std::size_t{c.max_tokens} * rows);
        if (accumulate) out.put(before);
        check(gemv_combine_experts(m.args(dx, r), out, accumulate, n, c.max_tokens, nullptr));
        auto have = out.take();
        have.resize(sums.size());
        auto want = sums;
        for (std::size_t i = 0; i < want.size() && accumulate; ++i) want[i] += double{before[i]};
        BOOST_TEST(relative_error(have, want) <= 2e-6);
      }
      if (c.n > 1 || c.type != dtype::bf16 || rows % 4 != 0) continue;

      // The same sum as a part of the residual stream, with half of the next norm.
      const auto weight = random_normal(rng, rows);
      device_array<std::uint8_t> weighted(std::size_t{rows} * 2);
      device_array<float> h(before), squares(rows / 4), dweight(weight);
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
      for (std::size_t i = 0; i < rows; ++i) sums[i] += double{before[i]};
      BOOST_TEST(relative_error(have, sums) <= 2e-6);
      std::vector<float> times(rows), parts(rows / 4);
      for (std::uint32_t i = 0; i < rows; ++i) times[i] = have[i] * weight[i];
      for (std::uint32_t i = 0; i < rows; i += 4)
        parts[i / 4] =
            (have[i] * have[i] + have[i + 1] * have[i + 1]) + (have[i + 2] * have[i + 2] + have[i + 3] * have[i + 3]);
      BOOST_TEST((decode(dtype::bf16, weighted.take()) == rounded(dtype::bf16, times)));
      BOOST_TEST((squares.take() == parts));
    }
}

BOOST_AUTO_TEST_CASE(what_it_does_not_take_is_refused) {
  const experts c{8, 2, 1, 1, dtype::bf16};
  const few_routes r(c);
  expert_gemv_args a{nullptr, 0, nullptr, dtype::f32, 8, 8, r.routes};
  BOOST_TEST((gemv_combine_experts(a, nullptr, false, nullptr, 1, nullptr) == cudaErrorInvalidValue));
  a.type = dtype::bf16;
  BOOST_TEST((gemv_combine_experts(a, nullptr, false, nullptr, 5, nullptr) == cudaErrorInvalidValue));
  a.cols = 12;
  BOOST_TEST((gemv_gated_experts(a, gate_activation::silu, {}, nullptr, nullptr, 1, nullptr) == cudaErrorInvalidValue));
  BOOST_TEST(expert_gemv_pays(8, 2, 1));
  BOOST_TEST(!expert_gemv_pays(8, 2, 2));
  BOOST_TEST(expert_gemv_pays(128, 8, 4));
  BOOST_TEST(!expert_gemv_pays(128, 8, 5));
}

BOOST_AUTO_TEST_SUITE_END()
