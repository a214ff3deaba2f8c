#include <boost/test/unit_test.hpp>
#include <cmath>
#include <random>

#include "kernels/gpu/ptx.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

// The emulated instructions against what the PTX manual says of them, element by element.
using namespace troupe::kernels;
namespace ptx = gpu::ptx;

namespace {

constexpr unsigned m = 16, n = 8, k = 16;

/// A block of one warp runs `body`.
void run_warp(const std::function<void()>& body, std::size_t shared_bytes = 0) {
  BOOST_TEST(simt::run_block(body, 1, 32, {0, 0, 0}, shared_bytes) == "");
}

std::uint32_t pair(const std::uint16_t* matrix, unsigned stride_to_second) {
  return matrix[0] | static_cast<std::uint32_t>(matrix[stride_to_second]) << 16;
}

/// Small integers, so that every sum is exact: a wrong place for any element shows.
void check_mma(std::uint16_t (*encode)(float),
               void (*mma)(float (&)[4], const std::uint32_t (&)[4], std::uint32_t, std::uint32_t)) {
  std::mt19937 random(1);
  std::uint16_t a[m][k], b[k][n];
  float c[m][n], want[m][n], got[m][n] = {};
  const auto digit = [&] { return static_cast<float>(static_cast<int>(random() % 15) - 7); };
  float fa[m][k], fb[k][n];
  for (unsigned i = 0; i < m; ++i)
    for (unsigned j = 0; j < k; ++j) a[i][j] = encode(fa[i][j] = digit());
  for (unsigned i = 0; i < k; ++i)
    for (unsigned j = 0; j < n; ++j) b[i][j] = encode(fb[i][j] = digit());
  for (unsigned i = 0; i < m; ++i)
    for (unsigned j = 0; j < n; ++j) {
      want[i][j] = c[i][j] = digit();
      for (unsigned x = 0; x < k; ++x) want[i][j] += fa[i][x] * fb[x][j];
    }
  run_warp([&] {
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    const std::uint32_t fragment[4] = {pair(&a[g][2 * t], 1), pair(&a[g + 8][2 * t], 1), pair(&a[g][2 * t + 8], 1),
                                       pair(&a[g + 8][2 * t + 8], 1)};
    float sums[4] = {c[g][2 * t], c[g][2 * t + 1], c[g + 8][2 * t], c[g + 8][2 * t + 1]};
    mma(sums, fragment, pair(&b[2 * t][g], n), pair(&b[2 * t + 8][g], n));
    got[g][2 * t] = sums[0];
    got[g][2 * t + 1] = sums[1];
    got[g + 8][2 * t] = sums[2];
    got[g + 8][2 * t + 1] = sums[3];
  });
  for (unsigned i = 0; i < m; ++i)
    for (unsigned j = 0; j < n; ++j) BOOST_TEST(got[i][j] == want[i][j], i << ", " << j);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(fragments)

BOOST_AUTO_TEST_CASE(products_are_those_of_the_matrices) {
  check_mma(f32_to_f16, ptx::mma_f16);
  check_mma(f32_to_bf16, ptx::mma_bf16);
}

// Every f16 times one, beside its exact value.
BOOST_AUTO_TEST_CASE(operands_keep_every_value) {
  for (unsigned first = 0; first < 0x10000; first += m) {
    float got[m] = {};
    run_warp([&] {
      const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
      const std::uint32_t a[4] = {t == 0 ? first + g : 0, t == 0 ? first + g + 8 : 0, 0, 0};
      float c[4] = {};
      ptx::mma_f16(c, a, t == 0 ? 0x3c00u : 0u, 0);
      if (t == 0) got[g] = c[0], got[g + 8] = c[2];
    });
    for (unsigned i = 0; i < m; ++i) {
      const float want = f16_to_f32(static_cast<f16_bits>(first + i));
      BOOST_TEST_REQUIRE((got[i] == want || (std::isnan(got[i]) && std::isnan(want))), first + i);
    }
  }
}

BOOST_AUTO_TEST_CASE(matrices_come_by_rows_or_transposed) {
  // Element (row, column) of matrix i is 100 i + 8 row + column.
  run_warp(
      [] {
        auto* const memory = ptx::dynamic_shared<std::uint16_t>();
        const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
        for (unsigned j = 0; j < 8; ++j)
          memory[lane * 8 + j] = static_cast<std::uint16_t>(100 * (lane / 8) + 8 * (lane % 8) + j);
        __syncwarp();
        const auto element = [](unsigned i, unsigned row, unsigned column) { return 100 * i + 8 * row + column; };
        std::uint32_t r[4], two[2];
        ptx::ldmatrix_x4(r, ptx::shared_address(memory + 8 * lane));
        for (unsigned i = 0; i < 4; ++i) BOOST_TEST(r[i] == (element(i, g, 2 * t) | element(i, g, 2 * t + 1) << 16));
        ptx::ldmatrix_x4_trans(r, ptx::shared_address(memory + 8 * lane));
        for (unsigned i = 0; i < 4; ++i) BOOST_TEST(r[i] == (element(i, 2 * t, g) | element(i, 2 * t + 1, g) << 16));
        ptx::ldmatrix_x2_trans(two, ptx::shared_address(memory + 8 * (lane % 16)));
        for (unsigned i = 0; i < 2; ++i) BOOST_TEST(two[i] == (element(i, 2 * t, g) | element(i, 2 * t + 1, g) << 16));
      },
      32 * 16);
}

BOOST_AUTO_TEST_CASE(bits_are_combined_as_their_tables_say) {
  const std::uint32_t a = 0x12345678, b = 0x9abcdef0, c = 0x0f1e2d3c;
  BOOST_TEST(ptx::lop3<0xea>(a, b, c) == ((a & b) | c));
  BOOST_TEST(ptx::lop3<0x6a>(a, b, c) == ((a & b) ^ c));
  BOOST_TEST(ptx::lop3<0x96>(a, b, c) == (a ^ b ^ c));
  BOOST_TEST(__byte_perm(a, b, 0x3210) == a);
  BOOST_TEST(__byte_perm(a, b, 0x7531) == 0x9ade1256u);
  BOOST_TEST(__byte_perm(a, b, 0x8f8f) == 0x00ff00ffu);
}

// To e4m3 and back: every code, and half way between neighbours to the even one.
BOOST_AUTO_TEST_CASE(e4m3_rounds_to_the_nearest) {
  const auto code = [](float x) { return unsigned{__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3)}; };
  for (unsigned i = 0; i < 0x7f; ++i) {
    const float x = e4m3_to_f32(static_cast<std::uint8_t>(i));
    BOOST_TEST(code(x) == i);
    BOOST_TEST(code(-x) == (i | 0x80));
    if (i == 0x7e) break;
    const float next = e4m3_to_f32(static_cast<std::uint8_t>(i + 1)), middle = (x + next) / 2;
    BOOST_TEST(code(middle) == i + i % 2);
    BOOST_TEST(code(std::nextafter(middle, 0.0f)) == i);
    BOOST_TEST(code(std::nextafter(middle, 1e9f)) == i + 1);
  }
  BOOST_TEST(code(1e9f) == 0x7eu);
  BOOST_TEST((code(NAN) & 0x7f) == 0x7fu);
}

// 16-bit arithmetic rounds once: 2049 lies half way between two f16, and a little more above it.
BOOST_AUTO_TEST_CASE(sixteen_bits_round_once) {
  const auto h = [](float x) { return __float2half_rn(x); };
  const __half2 a{h(2048), h(-2048)}, one{h(1), h(-1)}, tiny{h(0x1p-24f), h(0x1p-24f)};
  const auto sum = __half22float2(__hfma2(a, __half2{h(1), h(1)}, one));
  BOOST_TEST(sum.x == 2048.0f);
  BOOST_TEST(sum.y == -2048.0f);
  // 2048 * (1 + 2^-10) + 2^-24: a tie but for the last bit.
  const auto above = __half22float2(__hfma2(__half2{h(1.5f), h(1)}, __half2{h(1366), h(2049)}, tiny));
  BOOST_TEST(above.x == 2050.0f);
  const auto difference = __half22float2(__hsub2(__half2{h(65504), h(1)}, __half2{h(-16), h(1)}));
  BOOST_TEST(std::isinf(difference.x));
  BOOST_TEST(difference.y == 0.0f);
}

BOOST_AUTO_TEST_SUITE_END()
