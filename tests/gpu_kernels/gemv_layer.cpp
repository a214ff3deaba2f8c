// What ends with a product of one token: the residual stream and half of a norm, the rotation and the cache.

#include "kernels/gpu/gemv.hpp"
#include "tests/gpu_kernels/norm_half.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace troupe::kernels;
using namespace troupe::kernels::gpu;

namespace {

constexpr double rounding = 0x1.03p-8;  // of bf16: half a unit, and a little for the sums in f32

struct matrix {
  std::uint32_t rows, cols;
  std::vector<float> values;
  device_array<std::uint8_t> on_device;
  matrix(std::uint32_t r, std::uint32_t c, std::mt19937& rng)
      : rows(r),
        cols(c),
        values(rounded(dtype::bf16, random_normal(rng, std::size_t{r} * c, 1 / std::sqrt(static_cast<float>(c))))),
        on_device(encode(dtype::bf16, values)) {}
  std::vector<double> times(const std::vector<float>& x, double factor = 1) const {
    std::vector<double> y(rows);
    for (std::uint32_t r = 0; r < rows; ++r)
      for (std::uint32_t i = 0; i < cols; ++i)
        y[r] += double{values[std::size_t{r} * cols + i]} * double{x[i]} * factor;
    return y;
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(gpu_gemv_layer)

BOOST_AUTO_TEST_CASE(a_residual_product_leaves_half_of_the_next_norm) {
  std::mt19937 rng(11);
  for (const auto [rows, cols] : {std::pair{16u, 8u}, {64u, 520u}, {4096u, 4096u}, {1024u, 14336u}})
    for (const gemv_depth depth : {gemv_depth::two, gemv_depth::four, gemv_depth::eight}) {
      const matrix m(rows, cols, rng);
      const auto x = rounded(dtype::bf16, random_normal(rng, cols)), before = random_normal(rng, rows, 3);
      const auto weight = random_normal(rng, rows);
      device_array<std::uint8_t> dx(encode(dtype::bf16, x)), weighted(std::size_t{rows} * 2);
      device_array<float> h(before), squares(rows / 4), dweight(weight);
      device_array<std::uint32_t> n(std::vector<std::uint32_t>{1}), none(std::vector<std::uint32_t>{0});
      const gemv_residual_args a{m.on_device, dx, rows, cols, h, dweight, weighted, squares};
      check(gemv_residual(a, depth, none, nullptr));
      BOOST_TEST((h.take() == before));
      check(gemv_residual(a, depth, n, nullptr));
      auto want = m.times(x);
      for (std::uint32_t i = 0; i < rows; ++i) want[i] += double{before[i]};
      const auto have = h.take();
      BOOST_TEST(relative_error(have, want) <= 2e-6);
      check_norm_half(have, weight, weighted.take(), squares.take());
    }
  const gemv_residual_args odd{nullptr, nullptr, 18, 8, nullptr, nullptr, nullptr, nullptr};
  BOOST_TEST((gemv_residual(odd, gemv_depth::two, nullptr, nullptr) == cudaErrorInvalidValue));
}

BOOST_AUTO_TEST_CASE(a_gated_product_takes_the_other_half) {
  std::mt19937 rng(12);
  for (const auto [ffn, cols] : {std::pair{4u, 16u}, {301u, 528u}, {64u, 4096u}})
    for (const gemv_depth depth : {gemv_depth::two, gemv_depth::four, gemv_depth::eight}) {
      const matrix m(2 * ffn, cols, rng);
      const norm_half norm(cols, rng);
      const auto x = rounded(dtype::bf16, random_normal(rng, cols, 5));
      device_array<std::uint8_t> dx(encode(dtype::bf16, x)), y(std::size_t{ffn} * 2);
      device_array<std::uint32_t> n(std::vector<std::uint32_t>{1});
      check(gemv_gated({m.on_device, dx, dtype::bf16, 2 * ffn, cols, y, dtype::bf16, ffn, false}, gate_activation::silu,
                       norm.scale(), depth, n, 1, nullptr));
      const auto both = m.times(x, norm.factor);
      std::vector<double> want;
      for (std::uint32_t i = 0; i < ffn; ++i) want.push_back(both[i] / (1 + std::exp(-both[i])) * both[ffn + i]);
      BOOST_TEST(relative_error(decode(dtype::bf16, y.take()), want) <= rounding);
      BOOST_TEST((gemv_gated({m.on_device, dx, dtype::bf16, 2 * ffn, cols, y, dtype::bf16, ffn, false},
                             gate_activation::silu, norm.scale(), depth, n, 2, nullptr) == cudaErrorInvalidValue));
    }
}

BOOST_AUTO_TEST_CASE(queries_are_turned_and_keys_and_values_lie_in_their_page) {
  std::mt19937 rng(13);
  constexpr gemv_depth depths[] = {gemv_depth::two, gemv_depth::four, gemv_depth::eight};
  constexpr std::uint32_t n_heads = 6, n_kv = 2, table_pages = 5, slots = 3, n_pages = 17;
  for (const std::uint32_t dim : {8u, 64u, 128u})
    for (const std::uint32_t cols : {16u, 528u})
      for (const kv_type cache : {kv_type::f32, kv_type::f16, kv_type::bf16})
        for (const bool interleaved : {false, true})
          for (const bool plain : {false, true}) {  // with a bias and a scale, or without
            const std::uint32_t heads = n_heads + 2 * n_kv, position = rng() % (table_pages * page_tokens),
                                slot = rng() % slots;
            const matrix m(heads * dim, cols, rng);
            const norm_half norm(cols, rng);
            const auto x = rounded(dtype::bf16, random_normal(rng, cols, plain ? 1 : 5)),
                       bias = random_normal(rng, heads * dim);
            std::vector<std::uint32_t> table(slots * table_pages);
            for (std::uint32_t& p : table) p = static_cast<std::uint32_t>(rng() % n_pages);
            std::vector<float> rope(dim);
            for (std::uint32_t i = 0; i < dim; i += 2) {
              const float angle = static_cast<float>(rng() % 1000);
              rope[i] = std::cos(angle), rope[i + 1] = std::sin(angle);
            }
            const std::size_t elements = std::size_t{n_pages} * n_kv * page_tokens * dim;
            const dtype cache_type = cache == kv_type::f32   ? dtype::f32
                                     : cache == kv_type::f16 ? dtype::f16
                                                             : dtype::bf16;
            device_array<std::uint8_t> dx(encode(dtype::bf16, x)), q(std::size_t{n_heads} * dim * 2),
                k(elements * kv_element_bytes(cache)), v(elements * kv_element_bytes(cache));
            device_array<float> dbias(bias), drope(rope);
            device_array<std::uint32_t> dposition(std::vector<std::uint32_t>{position}),
                dslot(std::vector<std::uint32_t>{slot}), dtable(table), n(std::vector<std::uint32_t>{1});
            rope_store_args r{};
            r.qkv = q;
            r.type = dtype::bf16;
            r.bias = plain ? nullptr : dbias.get();
            r.rope = drope;
            r.rope_dim = dim;
            r.interleaved = interleaved;
            r.n_heads = n_heads;
            r.kv = {k, v, nullptr, nullptr, cache, n_kv, dim};
            r.positions = dposition;
            r.slots = dslot;
            r.page_table = dtable;
            r.table_pages = table_pages;
            BOOST_REQUIRE(can_gemv_qkv(r));
            check(gemv_qkv({m.on_device, dx, cols, plain ? rms_scale{} : norm.scale(), r}, depths[rng() % 3], n,
                           nullptr));

            auto y = m.times(x, plain ? 1 : norm.factor);
            for (std::size_t i = 0; i < y.size() && !plain; ++i) y[i] += double{bias[i]};
            for (std::uint32_t head = 0; head < n_heads + n_kv; ++head)
              for (std::uint32_t i = 0; i < dim / 2; ++i) {
                double& a = y[head * dim + (interleaved ? 2 * i : i)];
                double& b = y[head * dim + (interleaved ? 2 * i + 1 : i + dim / 2)];
                const double cosine = double{rope[2 * i]}, sine = double{rope[2 * i + 1]}, a0 = a;
                a = a0 * cosine - b * sine, b = b * cosine + a0 * sine;
              }
            const auto part = [&](std::uint32_t head, std::uint32_t count) {
              return std::vector<double>(y.begin() + head * dim, y.begin() + (head + count) * dim);
            };
            BOOST_TEST(relative_error(decode(dtype::bf16, q.take()), part(0, n_heads)) <= rounding);
            const std::uint32_t page = table[slot * table_pages + position / page_tokens];
            const auto k_all = decode(cache_type, k.take()), v_all = decode(cache_type, v.take());
            std::size_t written = 0;
            for (std::uint32_t head = 0; head < n_kv; ++head) {
              const std::size_t at = ((std::size_t{page} * n_kv + head) * page_tokens + position % page_tokens) * dim;
              const double bound = cache == kv_type::f32 ? 2e-6 : cache == kv_type::f16 ? 0x1.03p-11 : rounding;
              BOOST_TEST(relative_error(std::span(k_all).subspan(at, dim), part(n_heads + head, 1)) <= bound);
              BOOST_TEST(relative_error(std::span(v_all).subspan(at, dim), part(n_heads + n_kv + head, 1)) <= bound);
            }
            for (std::size_t i = 0; i < elements; ++i) written += !std::isnan(k_all[i]) + !std::isnan(v_all[i]);
            BOOST_TEST(written == std::size_t{2} * n_kv * dim);
          }
}

BOOST_AUTO_TEST_SUITE_END()
