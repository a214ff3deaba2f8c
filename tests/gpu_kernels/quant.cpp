#include "kernels/gpu/quant.hpp"

#include "kernels/gpu/packed_layout.hpp"
#include "tests/gpu_kernels/dense_cases.hpp"

using namespace troupe;
using namespace troupe::kernels;
using namespace troupe::kernels::gpu;
using test::device_array;

namespace {

using test::is_k;
constexpr auto& forms = test::packed_forms;

/// A random packed matrix on the device and its values.
struct matrix {
  packed_form form;
  std::uint32_t rows, cols;
  std::vector<std::byte> host;
  device_array<std::byte> memory;
  std::vector<float> values;

  matrix(std::mt19937& rng, packed_form form_, std::uint32_t rows_, std::uint32_t cols_)
      : form(form_), rows(rows_), cols(cols_), host(test::random_packed(rng, form, rows, cols)), memory(host) {
    const packed_weight w{form, rows, cols, host.data()};
    packed::with_form(form, 0, [&](auto f) {
      for (std::uint32_t r = 0; r < rows; ++r)
        for (std::uint32_t c = 0; c < cols; ++c) values.push_back(packed::weight_at<decltype(f)>(w, r, c));
      return 0;
    });
  }
  packed_weight weight() const { return {form, rows, cols, memory.get()}; }
};

/// x with a few columns fifty times as large, as activations have them.
std::vector<float> activations(std::mt19937& rng, dtype type, std::uint32_t n, std::uint32_t cols) {
  auto x = test::random_normal(rng, std::size_t{n} * cols);
  for (int k = 0; k < 3; ++k) {
    const std::uint32_t column = static_cast<std::uint32_t>(rng() % cols);
    for (std::uint32_t t = 0; t < n; ++t) x[std::size_t{t} * cols + column] *= 50.0f;
  }
  return test::rounded(type, x);
}

std::vector<double> product(const matrix& w, const std::vector<float>& x, std::uint32_t n) {
  std::vector<double> y(std::size_t{n} * w.rows);
  for (std::uint32_t t = 0; t < n; ++t)
    for (std::uint32_t r = 0; r < w.rows; ++r) {
      double sum = 0;
      for (std::uint32_t c = 0; c < w.cols; ++c)
        sum += double{w.values[std::size_t{r} * w.cols + c]} * x[std::size_t{t} * w.cols + c];
      y[std::size_t{t} * w.rows + r] = sum;
    }
  return y;
}

/// y as bytes of [max_tokens, ld_y], after a product with the first n tokens.
std::vector<std::uint8_t> multiply(const matrix& w, dtype type, const std::vector<float>& x, std::uint32_t n,
                                   std::uint32_t max_tokens, dtype y_type, std::uint32_t ld_y, bool captured = false) {
  // What lies beyond the n tokens is NaN.
  device_array<std::uint8_t> dx(std::size_t{max_tokens} * w.cols * test::size_of(type));
  const auto bytes = test::encode(type, x);
  dx.put(std::span(bytes).first(std::size_t{n} * w.cols * test::size_of(type)));
  device_array<std::uint8_t> y(std::size_t{max_tokens} * ld_y * test::size_of(y_type));
  const auto number = test::count(n);
  const packed_matmul_args args{w.weight(), dx.get(), type, y.get(), y_type, ld_y, false};
  test::run([&](cudaStream_t s) { return packed_matmul(args, number, max_tokens, s); }, captured);
  return y.take();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(gpu_quant)

BOOST_AUTO_TEST_CASE(dequantizing_is_exact_and_rounds_once) {
  std::mt19937 rng(1);
  for (packed_form form : forms)
    for (std::uint32_t rows : {1u, 17u, 80u})
      for (std::uint32_t cols : is_k(form) ? std::vector{256u, 768u} : std::vector{32u, 160u, 576u}) {
        const matrix w(rng, form, rows, cols);
        for (dtype type : test::compute_types) {
          device_array<std::uint8_t> out(std::size_t{rows} * cols * test::size_of(type));
          test::run([&](cudaStream_t s) { return dequantize(w.weight(), out.get(), type, s); });
          const auto have = test::decode(type, out.take()), want = test::rounded(type, w.values);
          std::size_t wrong = 0;
          for (std::size_t i = 0; i < want.size(); ++i) wrong += have[i] != want[i];
          BOOST_TEST(wrong == 0u, "form " << int(form) << " " << rows << " x " << cols << " to " << name(type));
        }
      }
}

BOOST_AUTO_TEST_CASE(products_are_near_the_exact_ones) {
  std::mt19937 rng(2);
  for (packed_form form : forms) {
    test::worst f32_out, rounded_out;
    for (std::uint32_t rows : {1u, 17u, 48u, 200u})
      for (std::uint32_t cols : is_k(form) ? std::vector{256u, 1280u, 2304u} : std::vector{32u, 160u, 576u, 2304u}) {
        const matrix w(rng, form, rows, cols);
        for (dtype type : test::compute_types)
          for (const auto& [n, max_tokens] : {std::pair{1u, 1u}, {3u, 8u}, {8u, 8u}, {9u, 16u}, {21u, 24u}}) {
            const auto x = activations(rng, type, n, cols);
            const auto want = product(w, x, n);
            const std::string what = "form " + std::to_string(int(form)) + " " + std::to_string(rows) + " x " +
                                     std::to_string(cols) + " " + std::string(name(type)) + " n " + std::to_string(n);
            for (dtype y_type : {dtype::f32, type}) {
              const std::uint32_t ld_y = rows + 3;
              const auto bytes = multiply(w, type, x, n, max_tokens, y_type, ld_y);
              const auto all = test::decode(y_type, bytes);
              std::vector<float> have;
              for (std::uint32_t t = 0; t < n; ++t) {
                have.insert(have.end(), all.begin() + t * ld_y, all.begin() + t * ld_y + rows);
                const std::size_t gap = (std::size_t{t} * ld_y + rows) * test::size_of(y_type);
                BOOST_TEST(test::untouched(std::span(bytes).first(gap + 3 * test::size_of(y_type)), gap), what);
              }
              BOOST_TEST(test::untouched(bytes, std::size_t{n} * ld_y * test::size_of(y_type)), what);
              const double error = test::relative_error(std::span<const float>(have), want);
              // 3e-3 is what rounding leaves on average; of a few outputs one may lie half a unit of bf16 away.
              const double bound = y_type == dtype::f32 ? 5e-5 : rows * n < 64 ? 0x1p-8 + 5e-5 : 3e-3;
              BOOST_TEST(error <= bound, what << " to " << name(y_type) << ": " << error);
              (y_type == dtype::f32 ? f32_out : rounded_out).see(error, what);
            }
          }
      }
    BOOST_TEST_MESSAGE("packed_matmul form " << int(form) << ": f32 " << f32_out << ", rounded " << rounded_out);
  }
}

BOOST_AUTO_TEST_CASE(accumulating_adds_to_what_is_there) {
  std::mt19937 rng(3);
  for (packed_form form : forms)
    for (dtype type : test::compute_types) {
      const std::uint32_t rows = 40, cols = 512, n = 5;
      const matrix w(rng, form, rows, cols);
      const auto x = activations(rng, type, n, cols);
      const auto alone = test::decode(dtype::f32, multiply(w, type, x, n, n, dtype::f32, rows));
      const auto before = test::random_normal(rng, n * rows, 30.0f);
      device_array<float> y(before);
      device_array<std::uint8_t> dx(test::encode(type, x));
      const auto number = test::count(n);
      const packed_matmul_args args{w.weight(), dx.get(), type, y.get(), dtype::f32, rows, true};
      test::run([&](cudaStream_t s) { return packed_matmul(args, number, n, s); });
      const auto have = y.take();
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < have.size(); ++i) wrong += have[i] != before[i] + alone[i];
      BOOST_TEST(wrong == 0u, "form " << int(form) << " " << name(type));
    }
}

BOOST_AUTO_TEST_CASE(a_token_is_the_same_alone_among_others_and_in_a_graph) {
  std::mt19937 rng(4);
  for (packed_form form : forms)
    for (dtype type : test::compute_types) {
      const std::uint32_t rows = 70, cols = 2304, n = 19;
      const matrix w(rng, form, rows, cols);
      const auto x = activations(rng, type, n, cols);
      const auto all = multiply(w, type, x, n, 24, dtype::f32, rows);
      BOOST_TEST((multiply(w, type, x, n, 24, dtype::f32, rows, true) == all), "graph, form " << int(form));
      for (std::uint32_t t : {0u, 7u, 13u, 18u}) {
        const std::vector<float> one(x.begin() + t * cols, x.begin() + (t + 1) * cols);
        const auto alone = multiply(w, type, one, 1, 1, dtype::f32, rows);
        BOOST_TEST(std::equal(alone.begin(), alone.end(), all.begin() + std::size_t{t} * rows * 4),
                   "form " << int(form) << " " << name(type) << " token " << t);
      }
    }
}

BOOST_AUTO_TEST_CASE(no_tokens_write_nothing) {
  std::mt19937 rng(5);
  for (packed_form form : forms) {
    const matrix w(rng, form, 33, 256);
    const auto bytes = multiply(w, dtype::bf16, {}, 0, 8, dtype::f32, 33);
    BOOST_TEST(test::untouched(bytes, 0), "form " << int(form));
  }
}

BOOST_AUTO_TEST_SUITE_END()
