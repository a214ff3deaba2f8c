#include "kernels/gpu/experts.hpp"

#include <algorithm>
#include <numeric>

#include "tests/gpu_kernels/dense_cases.hpp"

using namespace troupe;
using namespace troupe::kernels;
using namespace troupe::kernels::gpu;
using test::device_array;

namespace {

/// What the routing of a step left on the card.
struct routing {
  std::vector<std::uint32_t> counts, tokens, chosen, rows;
  std::vector<expert_tile> tiles;
  std::vector<float> shares;
  std::uint32_t n_rows, n_tiles;
};

/// A router's logits, the memory of the routes, and the launch.
struct routed_step {
  std::uint32_t n_experts, n_used, n, max_tokens, tile_rows;
  bool renormalized;
  std::vector<float> logits;
  device_array<std::byte> memory;
  device_array<float> device_logits;
  device_array<std::uint32_t> number;
  expert_routes routes;

  routed_step(std::vector<float> l, std::uint32_t experts, std::uint32_t used, std::uint32_t tokens, std::uint32_t most,
              std::uint32_t tile, bool renormalized_ = true)
      : n_experts(experts),
        n_used(used),
        n(tokens),
        max_tokens(most),
        tile_rows(tile),
        renormalized(renormalized_),
        logits(std::move(l)),
        memory(expert_routes_bytes(experts, used, most)),
        device_logits(std::size_t{most} * experts),
        number(std::vector{tokens}),
        routes(view_expert_routes(memory.get(), experts, used, most)) {
    device_logits.put(logits);
    reset();
  }
  /// As combine_experts leaves it.
  void reset() const { test::check(cudaMemset(routes.counts, 0, n_experts * sizeof(std::uint32_t))); }
  cudaError_t route(cudaStream_t s) const {
    return route_experts(device_logits, renormalized, routes, tile_rows, number, max_tokens, s);
  }
  template <class T>
  std::vector<T> fetch(const T* p, std::size_t n_elements) const {
    std::vector<T> out(n_elements);
    test::check(cudaDeviceSynchronize());
    test::check(cudaMemcpy(out.data(), p, n_elements * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }
  routing take() const {
    const std::size_t n_rows = std::size_t{n} * n_used;
    routing r;
    r.n_rows = fetch(routes.n_rows, 1)[0];
    r.n_tiles = fetch(routes.n_tiles, 1)[0];
    r.counts = fetch(routes.counts, n_experts);
    r.tokens = fetch(routes.tokens, n_rows);
    r.chosen = fetch(routes.chosen, n_rows);
    r.rows = fetch(routes.rows, n_rows);
    r.shares = fetch(routes.shares, n_rows);
    r.tiles = fetch(routes.tiles, r.n_tiles);
    (void)memory.take();  // its guards
    return r;
  }
};

/// Logits with many equal ones.
std::vector<float> router_logits(std::mt19937& rng, std::size_t n) {
  auto x = test::random_normal(rng, n);
  for (float& v : x)
    if (rng() % 4 == 0) v = rng() % 2 ? 1.0f : rng() % 2 ? 0.0f : -0.0f;
  return x;
}

std::vector<std::uint32_t> best(const float* logits, std::uint32_t n_experts, std::uint32_t n_used) {
  const auto value = [&](std::uint32_t e) { return std::isnan(logits[e]) ? -INFINITY : logits[e]; };
  std::vector<std::uint32_t> all(n_experts);
  std::iota(all.begin(), all.end(), 0u);
  std::sort(all.begin(), all.end(), [&](auto a, auto b) { return value(a) != value(b) ? value(a) > value(b) : a < b; });
  all.resize(n_used);
  std::sort(all.begin(), all.end());
  return all;
}

void check_routing(const routed_step& s, const routing& r) {
  BOOST_TEST_REQUIRE(r.n_rows == s.n * s.n_used);
  std::vector<std::uint32_t> counts(s.n_experts);
  std::size_t wrong_choice = 0, wrong_share = 0;
  for (std::uint32_t t = 0; t < s.n; ++t) {
    const float* const own = s.logits.data() + std::size_t{t} * s.n_experts;
    const auto want = best(own, s.n_experts, s.n_used);
    double total = 0;
    const auto add = [&](std::uint32_t e) { total += std::isnan(own[e]) ? 0 : std::exp(double{own[e]}); };
    if (s.renormalized)
      for (const std::uint32_t e : want) add(e);
    else
      for (std::uint32_t e = 0; e < s.n_experts; ++e) add(e);
    for (std::uint32_t j = 0; j < s.n_used; ++j) {
      const std::size_t at = std::size_t{t} * s.n_used + j;
      wrong_choice += r.chosen[at] != want[j];
      const double share = std::isnan(own[want[j]]) ? 0 : std::exp(double{own[want[j]]}) / total;
      wrong_share += !(std::abs(r.shares[at] - share) < 1e-6);
      ++counts[want[j]];
    }
  }
  BOOST_TEST_REQUIRE(wrong_choice == 0u);
  BOOST_TEST(wrong_share == 0u);
  BOOST_TEST(r.counts == counts, boost::test_tools::per_element());
  // Rows: experts ascending, tokens ascending within; every row once.
  std::vector<std::uint32_t> first(s.n_experts + 1, 0), next(s.n_experts, 0);
  for (std::uint32_t e = 0; e < s.n_experts; ++e) first[e + 1] = first[e] + counts[e];
  std::size_t wrong_row = 0, wrong_token = 0;
  for (std::uint32_t t = 0; t < s.n; ++t)
    for (std::uint32_t j = 0; j < s.n_used; ++j) {
      const std::size_t at = std::size_t{t} * s.n_used + j;
      const std::uint32_t e = r.chosen[at], row = first[e] + next[e]++;
      wrong_row += r.rows[at] != row;
      wrong_token += r.tokens[row] != t;
    }
  BOOST_TEST(wrong_row == 0u);
  BOOST_TEST(wrong_token == 0u);
  // Tiles: each expert's rows, cut every tile_rows.
  BOOST_TEST(r.n_tiles <= expert_tiles(s.n_experts, s.n_used, s.max_tokens, s.tile_rows));
  std::size_t tile = 0;
  for (std::uint32_t e = 0; e < s.n_experts; ++e)
    for (std::uint32_t at = first[e]; at < first[e + 1]; at += s.tile_rows, ++tile) {
      BOOST_TEST_REQUIRE(tile < r.tiles.size());
      BOOST_TEST(r.tiles[tile].expert == e);
      BOOST_TEST(r.tiles[tile].first == at);
      BOOST_TEST(r.tiles[tile].end == std::min(first[e + 1], at + s.tile_rows));
    }
  BOOST_TEST(tile == r.tiles.size());
}

/// One matrix per expert, and x; every row's product by expert and by the plain kernel.
struct expert_case {
  dtype type;
  packed_form form;  ///< none: of `type`
  std::uint32_t rows, cols;
};

std::uint64_t matrix_bytes(const expert_case& c) {
  return c.form == packed_form::none ? std::uint64_t{c.rows} * c.cols * test::size_of(c.type)
                                     : packed_bytes(c.form, c.rows, c.cols);
}

void check_products(std::mt19937& rng, const expert_case& c, const routed_step& step, bool gathers) {
  const std::uint64_t stride = (matrix_bytes(c) + 255) / 256 * 256;
  std::vector<std::byte> matrices(step.n_experts * stride, std::byte{0xff});
  for (std::uint32_t e = 0; e < step.n_experts; ++e) {
    std::vector<std::byte> one;
    if (c.form == packed_form::none) {
      const auto bytes = test::encode(c.type, test::random_normal(rng, std::size_t{c.rows} * c.cols));
      one.resize(bytes.size());
      std::memcpy(one.data(), bytes.data(), bytes.size());
    } else {
      one = test::random_packed(rng, c.form, c.rows, c.cols);
    }
    std::memcpy(matrices.data() + e * stride, one.data(), one.size());
  }
  const device_array<std::byte> weight(matrices);
  step.reset();
  test::run([&](cudaStream_t s) { return step.route(s); });
  const routing r = step.take();

  const std::uint32_t n_x = gathers ? step.n : r.n_rows, max_rows = step.max_tokens * step.n_used, ld_y = c.rows + 5;
  const auto x = test::rounded(c.type, test::random_normal(rng, std::size_t{n_x} * c.cols));
  const std::size_t size = test::size_of(c.type);
  // Rows of x beyond the last are NaN; so are those of y, and have to stay so.
  device_array<std::uint8_t> dx(std::size_t{gathers ? step.max_tokens : max_rows} * c.cols * size);
  dx.put(test::encode(c.type, x));
  device_array<std::uint8_t> y(std::size_t{max_rows} * ld_y * size);
  const auto packed_by = [&](std::uint64_t offset) {
    return packed_weight{c.form, c.rows, c.cols, weight.get() + offset};
  };
  test::run([&](cudaStream_t s) {
    if (c.form == packed_form::none)
      return expert_matmul({{weight.get(), dx.get(), c.type, c.rows, c.cols, y.get(), c.type, ld_y, false},
                            stride,
                            step.routes,
                            gathers,
                            step.tile_rows},
                           step.max_tokens, s);
    return packed_expert_matmul(
        {{packed_by(0), dx.get(), c.type, y.get(), c.type, ld_y, false}, stride, step.routes, gathers, step.tile_rows},
        step.max_tokens, s);
  });
  const auto have = y.take();
  std::size_t touched = 0, different = 0;
  for (std::size_t row = 0; row < max_rows; ++row)
    for (std::size_t i = row < r.n_rows ? c.rows : 0; i < ld_y; ++i)
      for (std::size_t b = 0; b < size; ++b) touched += have[(row * ld_y + i) * size + b] != 0xff;
  BOOST_TEST(touched == 0u);

  std::uint32_t first = 0;
  for (std::uint32_t e = 0; e < step.n_experts; ++e) {
    const std::uint32_t m = r.counts[e];
    if (m == 0) continue;
    std::vector<float> own;
    for (std::uint32_t i = 0; i < m; ++i) {
      const std::size_t from = (gathers ? r.tokens[first + i] : first + i) * std::size_t{c.cols};
      own.insert(own.end(), x.begin() + static_cast<std::ptrdiff_t>(from),
                 x.begin() + static_cast<std::ptrdiff_t>(from + c.cols));
    }
    const device_array<std::uint8_t> own_x(test::encode(c.type, own));
    device_array<std::uint8_t> own_y(std::size_t{m} * ld_y * size);
    const auto number = test::count(m);
    test::run([&](cudaStream_t s) {
      if (c.form == packed_form::none)
        return matmul(
            {weight.get() + e * stride, own_x.get(), c.type, c.rows, c.cols, own_y.get(), c.type, ld_y, false}, number,
            m, s);
      return packed_matmul({packed_by(e * stride), own_x.get(), c.type, own_y.get(), c.type, ld_y, false}, number, m,
                           s);
    });
    const auto want = own_y.take();
    for (std::size_t i = 0; i < m; ++i)
      different +=
          std::memcmp(want.data() + i * ld_y * size, have.data() + (first + i) * ld_y * size, c.rows * size) != 0;
    first += m;
  }
  BOOST_TEST(different == 0u, different << " of " << r.n_rows << " rows differ from the plain product's");
}

struct load {
  std::uint32_t n_experts, n_used, n, max_tokens;
};
/// Tiles of 8, 16, 32, 64 and 128 rows, full and not.
constexpr load loads[] = {{8, 2, 1, 1},   {8, 2, 7, 8},     {16, 4, 40, 44},
                          {5, 2, 60, 64}, {4, 2, 110, 120}, {3, 2, 210, 230}};

}  // namespace

BOOST_AUTO_TEST_SUITE(gpu_experts)

BOOST_AUTO_TEST_CASE(tokens_go_to_the_experts_that_the_router_likes_best) {
  struct shape {
    std::uint32_t n_experts, n_used;
  };
  std::mt19937 rng(1);
  for (const shape s : {shape{1, 1}, {4, 2}, {8, 8}, {32, 3}, {60, 4}, {128, 8}, {300, 5}})
    for (const auto& [n, most, tile] :
         {std::tuple{1u, 1u, 8u}, {0u, 4u, 8u}, {5u, 8u, 8u}, {77u, 80u, 16u}, {600u, 700u, 64u}})
      for (const bool renormalized : {true, false}) {
        const routed_step step(router_logits(rng, std::size_t{n} * s.n_experts), s.n_experts, s.n_used, n, most, tile,
                               renormalized);
        BOOST_TEST_CONTEXT(s.n_used << " of " << s.n_experts << " experts, " << n << " of " << most << " tokens") {
          test::run([&](cudaStream_t q) { return step.route(q); });
          check_routing(step, step.take());
        }
      }
}

BOOST_AUTO_TEST_CASE(what_is_not_a_number_is_chosen_last) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const routed_step step({nan, -1e30f, nan, 0, 1, 0, -inf, nan, -inf, nan, 3, nan}, 3, 1, 4, 4, 8);
  test::run([&](cudaStream_t s) { return step.route(s); });
  const routing r = step.take();
  BOOST_TEST((r.chosen == std::vector<std::uint32_t>{1, 1, 0, 1}));
}

BOOST_AUTO_TEST_CASE(a_row_has_the_bits_of_the_plain_product) {
  std::mt19937 rng(2);
  for (const dtype type : {dtype::bf16, dtype::f16, dtype::f32})
    for (const load& l : loads)
      for (const bool gathers : {true, false}) {
        const std::uint32_t tile = expert_tile_rows(type, l.n_experts, l.n_used, l.max_tokens);
        const routed_step step(router_logits(rng, std::size_t{l.n} * l.n_experts), l.n_experts, l.n_used, l.n,
                               l.max_tokens, tile);
        for (const auto& [rows, cols] : {std::pair{40u, 72u}, {130u, 264u}})
          BOOST_TEST_CONTEXT(name(type) << ", " << l.n << " tokens, tiles of " << tile << ", " << rows << " x " << cols)
        check_products(rng, {type, packed_form::none, rows, cols}, step, gathers);
      }
}

// The gate and what it is for, in f32, then the activation, rounded once.
BOOST_AUTO_TEST_CASE(a_gated_product_is_the_product_and_the_activation) {
  std::mt19937 rng(6);
  for (const dtype type : {dtype::bf16, dtype::f16})
    for (const load& l : loads)
      for (const auto& [ffn, cols] : {std::pair{24u, 72u}, {70u, 264u}}) {
        const std::uint32_t tile = expert_tile_rows(type, l.n_experts, l.n_used, l.max_tokens), ld_y = ffn + 3;
        const routed_step step(router_logits(rng, std::size_t{l.n} * l.n_experts), l.n_experts, l.n_used, l.n,
                               l.max_tokens, tile);
        test::run([&](cudaStream_t s) { return step.route(s); });
        const routing r = step.take();
        const std::uint64_t stride = std::uint64_t{2} * ffn * cols * 2;
        const auto weights =
            test::rounded(type, test::random_normal(rng, std::size_t{l.n_experts} * 2 * ffn * cols, 0.2f));
        const auto x = test::rounded(type, test::random_normal(rng, std::size_t{l.n} * cols));
        const device_array<std::uint8_t> dw(test::encode(type, weights));
        device_array<std::uint8_t> dx(std::size_t{l.max_tokens} * cols * 2);
        dx.put(test::encode(type, x));
        device_array<std::uint8_t> y(std::size_t{l.max_tokens} * l.n_used * ld_y * 2);
        for (const auto activation : {gate_activation::silu, gate_activation::gelu_tanh, gate_activation::gelu_erf}) {
          y.poison();
          test::run([&](cudaStream_t s) {
            return gated_expert_matmul({{dw.get(), dx.get(), type, 2 * ffn, cols, y.get(), type, ld_y, false},
                                        stride,
                                        step.routes,
                                        true,
                                        tile},
                                       activation, l.max_tokens, s);
          });
          const auto bytes = y.take();
          const auto all = test::decode(type, bytes);
          std::vector<float> have;
          std::vector<double> want;
          std::size_t touched = 0;
          for (std::size_t i = 0; i < all.size(); ++i)
            if (i % ld_y < ffn && i / ld_y < r.n_rows)
              have.push_back(all[i]);
            else
              touched += !test::untouched(std::span(bytes).subspan(2 * i, 2), 0);
          BOOST_TEST(touched == 0u);
          std::uint32_t row = 0;
          for (std::uint32_t e = 0; e < l.n_experts; ++e)
            for (std::uint32_t m = 0; m < r.counts[e]; ++m, ++row)
              for (std::uint32_t i = 0; i < ffn; ++i) {
                double both[2] = {};
                for (int half = 0; half < 2; ++half)
                  for (std::uint32_t c = 0; c < cols; ++c)
                    both[half] += double{weights[(std::size_t{e} * 2 * ffn + half * ffn + i) * cols + c]} *
                                  x[std::size_t{r.tokens[row]} * cols + c];
                want.push_back(test::activated(activation, both[0]) * both[1]);
              }
          BOOST_TEST(test::relative_error(have, want) <= (type == dtype::f16 ? 0x1p-11 : 0x1p-8) * 1.01,
                     name(type) << ", " << l.n << " tokens, tiles of " << tile << ", " << ffn << " x " << cols);
        }
      }
}

BOOST_AUTO_TEST_CASE(packed_experts_have_the_bits_of_the_plain_product) {
  std::mt19937 rng(3);
  for (const packed_form form : test::packed_forms)
    for (const dtype type : {dtype::bf16, dtype::f16, dtype::f32})
      for (const auto& [n, most] : {std::pair{1u, 1u}, {6u, 8u}, {50u, 60u}}) {
        const std::uint32_t tile = expert_tile_rows(type, 4, 2, most);
        const routed_step step(router_logits(rng, std::size_t{n} * 4), 4, 2, n, most, tile);
        for (const bool gathers : {true, false})
          BOOST_TEST_CONTEXT("form " << int(form) << ", " << name(type) << ", " << n << " tokens")
        check_products(rng, {type, form, 40, test::is_k(form) ? 512u : 160u}, step, gathers);
      }
}

BOOST_AUTO_TEST_CASE(tokens_get_the_weighted_sum_of_their_experts) {
  std::mt19937 rng(4);
  for (const dtype type : test::compute_types)
    for (const std::uint32_t hidden : {8u, 72u, 2056u})
      for (const bool accumulate : {false, true}) {
        const std::uint32_t n = 21, most = 30, n_used = 3;
        const routed_step step(router_logits(rng, n * 10), 10, n_used, n, most, 8);
        test::run([&](cudaStream_t s) { return step.route(s); });
        const routing r = step.take();
        const auto y = test::rounded(type, test::random_normal(rng, std::size_t{r.n_rows} * hidden));
        device_array<std::uint8_t> dy(std::size_t{most} * n_used * hidden * test::size_of(type));
        dy.put(test::encode(type, y));
        const auto before = test::random_normal(rng, std::size_t{n} * hidden);
        device_array<float> out(std::size_t{most} * hidden);
        out.put(before);
        test::run([&](cudaStream_t s) {
          return combine_experts(dy.get(), type, step.routes, hidden, out, accumulate, step.number, most, s);
        });
        const auto have = out.take();
        std::vector<double> want;
        for (std::uint32_t t = 0; t < n; ++t)
          for (std::uint32_t i = 0; i < hidden; ++i) {
            double sum = accumulate ? double{before[std::size_t{t} * hidden + i]} : 0;
            for (std::uint32_t j = 0; j < n_used; ++j)
              sum += double{r.shares[t * n_used + j]} * y[std::size_t{r.rows[t * n_used + j]} * hidden + i];
            want.push_back(sum);
          }
        BOOST_TEST(test::relative_error(have, want) < 1e-6);
        BOOST_TEST(test::untouched(have, want.size()));
        BOOST_TEST((step.fetch(step.routes.counts, 10) == std::vector<std::uint32_t>(10, 0)));
      }
}

// A layer's kernels as one graph, for steps of any size; each leaves the routes as the next wants them.
BOOST_AUTO_TEST_CASE(one_graph_serves_every_number_of_tokens) {
  std::mt19937 rng(5);
  constexpr std::uint32_t n_experts = 6, n_used = 2, most = 40, rows = 24, cols = 64;
  const std::uint32_t tile = expert_tile_rows(dtype::bf16, n_experts, n_used, most);
  const auto weight = device_array<std::uint8_t>(
      test::encode(dtype::bf16, test::random_normal(rng, std::size_t{n_experts} * rows * cols)));
  const auto x = device_array<std::uint8_t>(test::encode(dtype::bf16, test::random_normal(rng, most * cols)));
  device_array<std::uint8_t> y(std::size_t{most} * n_used * rows * 2);
  device_array<float> out(most * rows);
  const auto logits = router_logits(rng, most * n_experts);
  const auto layer = [&](const routed_step& step, cudaStream_t s) {
    cudaError_t code = step.route(s);
    if (code == cudaSuccess)
      code = expert_matmul({{weight.get(), x.get(), dtype::bf16, rows, cols, y.get(), dtype::bf16, rows, false},
                            rows * cols * 2,
                            step.routes,
                            true,
                            tile},
                           most, s);
    if (code == cudaSuccess)
      code = combine_experts(y.get(), dtype::bf16, step.routes, rows, out, false, step.number, most, s);
    return code;
  };
  std::vector<float> whole;
  routed_step step(logits, n_experts, n_used, most, most, tile);
  for (const std::uint32_t n : {most, 1u, 0u, 17u, most}) {
    step.number.put(std::vector{n});
    out.poison();
    test::run([&](cudaStream_t s) { return layer(step, s); }, true);  // twice
    const auto have = out.take();
    if (whole.empty()) whole = have;
    BOOST_TEST((std::memcmp(have.data(), whole.data(), n * rows * sizeof(float)) == 0));
    BOOST_TEST(test::untouched(have, std::size_t{n} * rows));
  }
}

BOOST_AUTO_TEST_CASE(wrong_arguments_are_refused) {
  const routed_step step(std::vector<float>(8), 4, 2, 2, 2, 8);
  expert_routes r = step.routes;
  const auto route = [&](std::uint32_t tile) {
    return route_experts(step.device_logits, true, r, tile, step.number, 2, nullptr);
  };
  BOOST_TEST(route(4) == cudaErrorInvalidValue);
  r.n_used = 5;
  BOOST_TEST(route(8) == cudaErrorInvalidValue);
  r = step.routes;
  const device_array<std::uint8_t> memory(4096);
  matmul_args m{memory.get(), memory.get(), dtype::bf16, 8, 12, memory.get(), dtype::bf16, 8, false};
  BOOST_TEST(expert_matmul({m, 256, r, true, 8}, 2, nullptr) == cudaErrorInvalidValue);
  m.cols = 16;
  m.y_type = dtype::f32;
  BOOST_TEST(expert_matmul({m, 256, r, true, 8}, 2, nullptr) == cudaErrorInvalidValue);
  m.y_type = dtype::bf16;
  BOOST_TEST(expert_matmul({m, 256, r, true, 48}, 2, nullptr) == cudaErrorInvalidValue);
  BOOST_TEST(combine_experts(memory.get(), dtype::bf16, r, 12, step.device_logits, false, step.number, 2, nullptr) ==
             cudaErrorInvalidValue);
}

BOOST_AUTO_TEST_SUITE_END()
