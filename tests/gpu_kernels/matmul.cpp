#include "kernels/gpu/matmul.hpp"

#include <cstring>
#include <functional>

#include "kernels/gpu/gemv.hpp"
#include "kernels/gpu/matmul_rule.hpp"
#include "tests/gpu_kernels/device.hpp"

using namespace troupe;
using namespace troupe::test;
using namespace troupe::kernels;
using namespace troupe::kernels::gpu;

namespace {

std::uint32_t size_of(dtype t) { return t == dtype::f32 ? 4 : 2; }

struct product {
  dtype type, y_type;
  std::uint32_t rows, cols;
  std::vector<float> weight;  // as stored
  device_array<std::uint8_t> device_weight;

  product(dtype t, dtype y, std::uint32_t r, std::uint32_t c, std::mt19937& rng)
      : type(t),
        y_type(y),
        rows(r),
        cols(c),
        weight(rounded(t, random_normal(rng, std::size_t{r} * c))),
        device_weight(encode(t, weight)) {}

  /// What lies beyond the n rows of x, and beyond `rows` in each row of y, is NaN before and has to be after.
  std::vector<float> run(const std::vector<float>& x, std::uint32_t n, std::uint32_t max_tokens,
                         const std::vector<float>* add_to = nullptr,
                         const std::function<decltype(matmul)>& compute = matmul) const {
    const std::uint32_t ld_y = rows + 3;
    device_array<std::uint8_t> dx(std::size_t{max_tokens} * cols * size_of(type));
    dx.put(encode(type, std::span(x).first(std::size_t{n} * cols)));
    std::vector<float> before(std::size_t{max_tokens} * ld_y, std::numeric_limits<float>::quiet_NaN());
    if (add_to)
      for (std::size_t t = 0; t < n; ++t)
        std::copy_n(add_to->begin() + static_cast<std::ptrdiff_t>(t * rows), rows,
                    before.begin() + static_cast<std::ptrdiff_t>(t * ld_y));
    device_array<std::uint8_t> dy(encode(y_type, before));
    device_array<std::uint32_t> dn(std::vector<std::uint32_t>{n});
    const matmul_args a{device_weight, dx, type, rows, cols, dy, y_type, ld_y, add_to != nullptr};
    check(compute(a, dn, max_tokens, nullptr));
    const std::vector<float> all = decode(y_type, dy.take());
    std::vector<float> y;
    std::size_t touched = 0;
    for (std::size_t i = 0; i < all.size(); ++i)
      if (i / ld_y < n && i % ld_y < rows)
        y.push_back(all[i]);
      else
        touched += !std::isnan(all[i]);
    BOOST_TEST(touched == 0u, touched << " elements beyond the result were written");
    return y;
  }
};

std::vector<double> reference(const product& p, const std::vector<float>& x, std::uint32_t n) {
  std::vector<double> y(std::size_t{n} * p.rows);
  std::vector<double> wide(p.weight.begin(), p.weight.end());
  for (std::uint32_t t = 0; t < n; ++t)
    for (std::uint32_t r = 0; r < p.rows; ++r) {
      double sums[4] = {};
      const float* a = x.data() + std::size_t{t} * p.cols;
      const double* w = wide.data() + std::size_t{r} * p.cols;
      std::uint32_t c = 0;
      for (; c + 4 <= p.cols; c += 4)
        for (int i = 0; i < 4; ++i) sums[i] += static_cast<double>(a[c + i]) * w[c + i];
      for (; c < p.cols; ++c) sums[0] += static_cast<double>(a[c]) * w[c];
      y[std::size_t{t} * p.rows + r] = sums[0] + sums[1] + sums[2] + sums[3];
    }
  return y;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(gpu_matmul)

BOOST_AUTO_TEST_CASE(segments_cover_the_columns) {
  for (std::uint32_t cols : {1u, 8u, 31u, 32u, 255u, 256u, 257u, 576u, 1536u, 4096u, 14336u, 14344u}) {
    BOOST_TEST(segment_columns(cols) % block_columns == 0u);
    BOOST_TEST(segment_count(cols) <= max_segments);
    BOOST_TEST(segment_count(cols) * segment_columns(cols) >= cols);
    BOOST_TEST((segment_count(cols) - 1) * segment_columns(cols) < cols);
  }
}

BOOST_AUTO_TEST_CASE(products_are_close_to_f64) {
  struct shape {
    std::uint32_t rows, cols, n, max_tokens;
  };
  constexpr std::uint32_t many = emulated ? 260 : 1500;
  constexpr std::uint32_t some = emulated ? 120 : 700;  // by small tiles half a card, by large ones less than one
  // One kernel each: streams of 8, 16 (low and tall) and 32 tokens, small tiles, large tiles; odd everything.
  const shape shapes[] = {{1, 8, 1, 1},
                          {17, 40, 1, 1},
                          {200, 4104, 1, 1},
                          {203, 576, 7, 8},
                          {129, 1000, 13, 16},
                          {2200, 1048, 11, 16},
                          {95, 2056, 29, 32},
                          {130, 1032, 50, 64},
                          {70, 264, 150, 200},
                          {some, 264, some - 10, some},
                          {many + 41, 520, many, many + 37},
                          {640, 14336, 3, 8},
                          {576, 1536, 64, 64}};
  std::mt19937 rng(1);
  for (dtype type : {dtype::f16, dtype::bf16, dtype::f32}) {
    double worst = 0, worst_rounded = 0;
    for (const shape& s : shapes)
      for (dtype y_type : {dtype::f32, type}) {
        if (type == dtype::f32 && s.n == many) continue;
        const product p(type, y_type, s.rows, s.cols, rng);
        auto x = random_normal(rng, std::size_t{s.n} * s.cols);
        for (std::uint32_t c = 3; c < s.cols; c += 97)  // outlier channels
          for (std::uint32_t t = 0; t < s.n; ++t) x[std::size_t{t} * s.cols + c] *= 50;
        x = rounded(type, x);
        const double error = relative_error(p.run(x, s.n, s.max_tokens), reference(p, x, s.n));
        // Few numbers may all lie just above a power of two, where half a unit is 2^-8 of them.
        const double bound = y_type == dtype::f32   ? 5e-5
                             : y_type == dtype::f16 ? 5e-4 + 5e-5
                             : s.rows * s.n < 64    ? 0x1p-8 + 5e-5
                                                    : 2.5e-3;
        BOOST_TEST(error <= bound, "type " << static_cast<int>(type) << ", " << s.rows << " x " << s.cols << ", n "
                                           << s.n << ": relative error " << error);
        double& w = y_type == dtype::f32 ? worst : worst_rounded;
        w = std::max(w, error);
      }
    BOOST_TEST_MESSAGE("matmul of type " << static_cast<int>(type) << ": worst relative error " << worst << " in f32, "
                                         << worst_rounded << " rounded");
  }
}

BOOST_AUTO_TEST_CASE(f32_takes_any_number_of_columns) {
  std::mt19937 rng(2);
  for (std::uint32_t cols : {1u, 3u, 17u, 33u, 1001u})
    for (std::uint32_t n : {1u, 9u}) {
      const product p(dtype::f32, dtype::f32, 67, cols, rng);
      const auto x = random_normal(rng, std::size_t{n} * cols);
      const double error = relative_error(p.run(x, n, n + 3), reference(p, x, n));
      BOOST_TEST(error <= 5e-5, cols << " columns, n " << n << ": " << error);
    }
}

BOOST_AUTO_TEST_CASE(a_row_has_the_same_bits_alone_and_among_others) {
  std::mt19937 rng(3);
  for (dtype type : {dtype::f16, dtype::bf16, dtype::f32})
    for (auto [rows, cols] : {std::pair{200u, 4104u}, {2112u, 576u}, {1100u, 40u}}) {
      const product p(type, dtype::f32, rows, cols, rng);
      constexpr std::uint32_t most = emulated ? 210 : 2100;
      const auto x = rounded(type, random_normal(rng, std::size_t{most} * cols));
      const std::uint32_t alone[] = {0, 5, 12, 30, 60, 199, most - 1};
      std::vector<std::vector<float>> want;
      for (std::uint32_t t : alone) {
        const std::vector<float> row(x.begin() + static_cast<std::ptrdiff_t>(std::size_t{t} * cols),
                                     x.begin() + static_cast<std::ptrdiff_t>(std::size_t{t + 1} * cols));
        want.push_back(p.run(row, 1, 1));
      }
      for (std::uint32_t n : {6u, 8u, 13u, 16u, 31u, 61u, 200u, most}) {
        const auto y = p.run(x, n, n);
        for (std::size_t i = 0; i < std::size(alone); ++i)
          if (alone[i] < n)
            BOOST_TEST(same_bits(std::span(y).subspan(std::size_t{alone[i]} * rows, rows), want[i]),
                       "type " << static_cast<int>(type) << ", " << rows << " x " << cols << ": token " << alone[i]
                               << " of " << n << " differs from itself alone");
      }
    }
}

BOOST_AUTO_TEST_CASE(accumulating_adds_the_product_once) {
  std::mt19937 rng(4);
  for (dtype type : {dtype::f16, dtype::bf16, dtype::f32})
    for (std::uint32_t n : {1u, 12u, 20u, 70u}) {
      const product p(type, dtype::f32, 150, 600, rng);
      const auto x = rounded(type, random_normal(rng, std::size_t{n} * 600));
      const auto residual = random_normal(rng, std::size_t{n} * 150, 10);
      const auto y = p.run(x, n, n + 1);
      auto want = residual;
      for (std::size_t i = 0; i < want.size(); ++i) want[i] += y[i];
      BOOST_TEST(same_bits(p.run(x, n, n + 1, &residual), want), "type " << static_cast<int>(type) << ", n " << n);
    }
}

BOOST_AUTO_TEST_CASE(gemv_is_close_to_f64) {
  std::mt19937 rng(6);
  const auto gemv_of = [](gemv_depth depth) {
    return [depth](const matmul_args& a, const std::uint32_t* n, std::uint32_t max_tokens, cudaStream_t s) {
      return gemv(a, {}, depth, n, max_tokens, s);
    };
  };
  for (dtype type : {dtype::f16, dtype::bf16}) {
    double worst = 0;
    for (auto [rows, cols] : {std::pair{1u, 8u}, {7u, 504u}, {130u, 512u}, {1001u, 520u}, {257u, 4096u}, {60u, 14336u}})
      for (std::uint32_t max_tokens : {1u, 2u, 4u})
        for (std::uint32_t n = 1; n <= max_tokens; ++n) {
          const product f32(type, dtype::f32, rows, cols, rng), same(type, type, rows, cols, rng);
          const auto x = rounded(type, random_normal(rng, std::size_t{n} * cols));
          const auto want = reference(f32, x, n);
          for (const gemv_depth depth : {gemv_depth::two, gemv_depth::four, gemv_depth::eight}) {
            if (depth == gemv_depth::eight && max_tokens > 1) continue;
            const auto compute = gemv_of(depth);
            const double error = relative_error(f32.run(x, n, max_tokens, nullptr, compute), want);
            worst = std::max(worst, error);
            BOOST_TEST(error <= 5e-5, rows << " x " << cols << ", n " << n << " of " << max_tokens << ": " << error);
            const double bound =
                type == dtype::f16 ? 0x1.03p-11 : 0x1.03p-8;  // a single element may be half a unit off
            BOOST_TEST(relative_error(same.run(x, n, max_tokens, nullptr, compute), reference(same, x, n)) <= bound);
            const auto residual = random_normal(rng, std::size_t{n} * rows, 10);
            std::vector<double> sum(want);
            for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(residual[i]);
            BOOST_TEST(relative_error(f32.run(x, n, max_tokens, &residual, compute), sum) <= 5e-5);
          }
        }
    BOOST_TEST_MESSAGE("gemv of type " << static_cast<int>(type) << ": worst relative error " << worst);
  }
}

BOOST_AUTO_TEST_CASE(a_gated_gemv_is_the_product_and_the_activation) {
  std::mt19937 rng(7);
  for (dtype type : {dtype::f16, dtype::bf16})
    for (auto [ffn, cols] : {std::pair{1u, 8u}, {301u, 520u}, {64u, 4096u}})
      for (std::uint32_t n : {1u, 2u, 3u}) {
        const std::uint32_t max_tokens = n == 3 ? 4 : n;
        const product p(type, dtype::f32, 2 * ffn, cols, rng);
        const auto x = rounded(type, random_normal(rng, std::size_t{n} * cols, 0.05f));
        const auto both = reference(p, x, n);
        device_array<std::uint8_t> dx(encode(type, x)), dy(std::size_t{max_tokens} * ffn * 2);
        device_array<std::uint32_t> dn(std::vector<std::uint32_t>{n});
        for (const auto activation : {gate_activation::silu, gate_activation::gelu_tanh, gate_activation::gelu_erf}) {
          std::vector<double> want;
          for (std::uint32_t t = 0; t < n; ++t)
            for (std::uint32_t i = 0; i < ffn; ++i) {
              const double g = both[std::size_t{t} * 2 * ffn + i], u = both[std::size_t{t} * 2 * ffn + ffn + i];
              want.push_back(activated(activation, g) * u);
            }
          dy.poison();
          check(gemv_gated({p.device_weight, dx, type, 2 * ffn, cols, dy, type, ffn, false}, activation, {},
                           gemv_depth::four, dn, max_tokens, nullptr));
          const auto y = decode(type, dy.take());
          const double error = relative_error(std::span(y).first(want.size()), want);
          BOOST_TEST(error <= (type == dtype::f16 ? 0x1p-11 : 0x1p-8) * 1.01,
                     ffn << " x " << cols << ", n " << n << ": " << error);
          for (std::size_t i = want.size(); i < y.size(); ++i) BOOST_TEST(std::isnan(y[i]));
        }
      }
}

BOOST_AUTO_TEST_CASE(one_graph_serves_every_number_of_tokens) {
  std::mt19937 rng(5);
  const product p(dtype::bf16, dtype::f32, 300, 1024, rng);
  for (std::uint32_t max_tokens : {8u, 16u, 32u, 64u, emulated ? 300u : 2100u}) {
    const auto x = rounded(dtype::bf16, random_normal(rng, std::size_t{max_tokens} * 1024));
    device_array<std::uint8_t> dx(encode(dtype::bf16, x));
    device_array<float> dy(std::size_t{max_tokens} * 300);
    device_array<std::uint32_t> dn(1);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamCreate(&stream));
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    check(matmul({p.device_weight, dx, dtype::bf16, 300, 1024, dy, dtype::f32, 300, false}, dn, max_tokens, stream));
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&exec, graph, 0));
    for (std::uint32_t n : {max_tokens, 0u, 1u, max_tokens / 2}) {
      dy.poison();
      dn.put(std::vector<std::uint32_t>{n});
      check(cudaGraphLaunch(exec, stream));
      check(cudaStreamSynchronize(stream));
      const auto y = dy.take();
      if (n) BOOST_TEST(same_bits(std::span(y).first(std::size_t{n} * 300), p.run(x, n, max_tokens)));
      for (std::size_t i = std::size_t{n} * 300; i < y.size(); ++i) BOOST_TEST_REQUIRE(std::isnan(y[i]));
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
}

BOOST_AUTO_TEST_CASE(wrong_arguments_are_refused) {
  device_array<std::uint32_t> n(std::vector<std::uint32_t>{1});
  BOOST_TEST(matmul({n, n, dtype::bf16, 8, 12, n, dtype::f32, 8, false}, n, 1, nullptr) == cudaErrorInvalidValue);
  BOOST_TEST(matmul({n, n, dtype::bf16, 8, 16, n, dtype::f16, 8, false}, n, 1, nullptr) == cudaErrorInvalidValue);
  BOOST_TEST(matmul({n, n, dtype::bf16, 8, 16, n, dtype::bf16, 8, true}, n, 1, nullptr) == cudaErrorInvalidValue);
  BOOST_TEST(matmul({n, n, dtype::q4_0, 8, 32, n, dtype::f32, 8, false}, n, 1, nullptr) == cudaErrorInvalidValue);
}

BOOST_AUTO_TEST_SUITE_END()
