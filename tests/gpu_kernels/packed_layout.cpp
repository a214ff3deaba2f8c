#include "kernels/gpu/packed_layout.hpp"

#include <thread>

#include "kernels/common/block_values.hpp"
#include "src/format/dequantize.hpp"
#include "tests/gpu_kernels/dense_cases.hpp"

using namespace troupe;
using namespace troupe::kernels;
using namespace troupe::kernels::gpu;

namespace {

std::vector<float> dequantized(dtype type, const std::vector<std::byte>& blocks, std::size_t n) {
  std::vector<float> out(n);
  format::dequantize(type, blocks.data(), out.data(), n);
  return out;
}

/// All weights of a packed matrix, by the arithmetic that the device uses as well.
std::vector<float> values(packed_form form, const std::vector<std::byte>& packed, std::uint32_t rows,
                          std::uint32_t cols) {
  std::vector<float> out;
  const packed_weight w{form, rows, cols, packed.data()};
  packed::with_form(form, 0, [&](auto f) {
    for (std::uint32_t r = 0; r < rows; ++r)
      for (std::uint32_t c = 0; c < cols; ++c) out.push_back(packed::weight_at<decltype(f)>(w, r, c));
    return 0;
  });
  return out;
}

std::vector<std::byte> poisoned(packed_form form, std::uint32_t rows, std::uint32_t cols) {
  return std::vector<std::byte>(packed_bytes(form, rows, cols), std::byte{0xff});
}

}  // namespace

// None of these needs a card.
BOOST_AUTO_TEST_SUITE(packed_layouts)

BOOST_AUTO_TEST_CASE(single_elements_of_blocks_equal_the_reference) {
  std::mt19937 rng(1);
  for (dtype type : test::block_types) {
    const std::size_t n = 256 * 20;
    const auto blocks = test::random_blocks(rng, type, n);
    const auto want = dequantized(type, blocks, n);
    std::size_t wrong = 0;
    with_block(type, 0, [&](auto b) {
      using Block = decltype(b);
      for (std::size_t i = 0; i < n; ++i)
        wrong += std::bit_cast<std::uint32_t>(value(reinterpret_cast<const Block*>(blocks.data())[i / Block::elements],
                                                    static_cast<int>(i % Block::elements))) !=
                 std::bit_cast<std::uint32_t>(want[i]);
      return 0;
    });
    BOOST_TEST(wrong == 0u, kernels::name(type));
  }
}

BOOST_AUTO_TEST_CASE(packing_keeps_every_value) {
  std::mt19937 rng(2);
  const struct {
    dtype type;
    packed_form form;
  } types[] = {{dtype::q4_0, packed_form::u4},
               {dtype::q4_1, packed_form::u4},
               {dtype::q8_0, packed_form::i8},
               {dtype::q4_k, packed_form::u4k},
               {dtype::q6_k, packed_form::i6k}};
  for (const auto& [type, form] : types) {
    BOOST_TEST((form_of(type) == form));
    const bool k = form == packed_form::u4k || form == packed_form::i6k;
    for (std::uint32_t rows : {1u, 15u, 16u, 17u, 33u})
      for (std::uint32_t cols : k ? std::vector{256u, 768u} : std::vector{32u, 64u, 96u, 128u, 160u, 576u}) {
        const auto blocks = test::random_blocks(rng, type, std::size_t{rows} * cols);
        auto packed = poisoned(form, rows, cols);
        pack_rows_host(type, blocks.data(), rows, cols, 0, rows, packed.data());
        const auto want = dequantized(type, blocks, std::size_t{rows} * cols);
        const auto have = values(form, packed, rows, cols);
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < want.size(); ++i) wrong += have[i] != want[i];
        BOOST_TEST(wrong == 0u, kernels::name(type) << " " << rows << " x " << cols);
        // Ranges of rows, at once and in any order, give the same bytes, padding included.
        auto parts = poisoned(form, rows, cols);
        std::vector<std::thread> threads;
        for (std::uint32_t first = 0; first < rows; first += 5)
          threads.emplace_back([&, first] {
            pack_rows_host(type, blocks.data(), rows, cols, first, std::min(first + 5, rows), parts.data());
          });
        for (std::thread& t : threads) t.join();
        BOOST_TEST((parts == packed), kernels::name(type) << " " << rows << " x " << cols << " in parts");
        // Padding is worth nothing.
        packed::with_form(form, 0, [&](auto f) {
          using Form = decltype(f);
          const std::uint32_t whole_cols = packed::chunks<Form>(cols) * Form::cols;
          double sum = 0;
          for (std::uint32_t r = 0; r < packed::tiles(rows) * 16; ++r)
            for (std::uint32_t c = r < rows ? cols : 0; c < whole_cols; ++c)
              sum += std::fabs(Form::value(packed.data() + packed::record_offset<Form>(r / 16, c / Form::cols, cols),
                                           r % 16, c % Form::cols));
          BOOST_TEST(sum == 0.0, kernels::name(type) << " " << rows << " x " << cols << " padding");
          return 0;
        });
      }
  }
  for (dtype type : {dtype::q5_0, dtype::q2_k, dtype::iq4_nl, dtype::mxfp4, dtype::f16})
    BOOST_TEST((form_of(type) == packed_form::none));
}

BOOST_AUTO_TEST_CASE(quantizing_stays_within_half_a_step) {
  std::mt19937 rng(3);
  const std::uint32_t rows = 21, cols = 160;
  auto x = test::random_normal(rng, std::size_t{rows} * cols);
  std::fill_n(x.begin(), cols, 0.0f);  // a row of nothing
  for (packed_form form : {packed_form::u4, packed_form::i8, packed_form::f8}) {
    auto packed = poisoned(form, rows, cols);
    quantize_rows_host(form, x.data(), rows, cols, 0, 7, packed.data());
    quantize_rows_host(form, x.data() + std::size_t{7} * cols, rows, cols, 7, rows, packed.data());
    const auto have = values(form, packed, rows, cols);
    double worst = 0;
    for (std::uint32_t r = 0; r < rows; ++r)
      for (std::uint32_t c = 0; c < cols; ++c) {
        const std::size_t i = std::size_t{r} * cols + c;
        const float* group = x.data() + std::size_t{r} * cols + c / 32 * 32;
        const auto [low, high] = std::minmax_element(group, group + 32);
        float row_max = 0;
        for (std::uint32_t k = 0; k < cols; ++k) row_max = std::max(row_max, std::fabs(x[std::size_t{r} * cols + k]));
        // Half a step, and what rounding scale and minimum to f16 moves the far end of the range.
        double bound = 0;
        if (form == packed_form::u4) bound = (*high - *low) / 30 + (*high - *low) * 0x1p-11 + std::fabs(*low) * 0x1p-11;
        if (form == packed_form::i8) bound = std::max(-*low, *high) * (1.0 / 254 + 0x1p-11);
        if (form == packed_form::f8) bound = std::max(std::fabs(x[i]) / 16.0, row_max / 448.0 * 0x1p-10);
        const double error = std::fabs(have[i] - x[i]);
        BOOST_REQUIRE_MESSAGE(error <= bound * 1.0001, "form " << int(form) << " row " << r << " column " << c << ": "
                                                               << have[i] << " for " << x[i] << ", bound " << bound);
        if (bound > 0) worst = std::max(worst, error / bound);
      }
    BOOST_TEST_MESSAGE("form " << int(form) << ": worst error " << worst << " of the bound");
    BOOST_TEST(worst > 0.5);  // a bound that is never near would not show a wrong step
  }
}

BOOST_AUTO_TEST_CASE(e4m3_codes_keep_every_bit) {
  std::mt19937 rng(4);
  // Rows of two tensors in one matrix, each with its scale, in pieces that are no tiles.
  for (const auto& [rows, split, cols] : {std::array{33u, 20u, 160u}, {16u, 3u, 128u}, {7u, 7u, 32u}}) {
    std::vector<std::byte> codes(std::size_t{rows} * cols);
    for (std::byte& c : codes) c = static_cast<std::byte>(rng() % 2 ? rng() % 127 : 128 + rng() % 127);
    const float scales[2] = {0.0123f, 3.7e-5f};
    auto packed = poisoned(packed_form::f8, rows, cols);
    for (std::uint32_t first = 0; first < rows;) {
      const std::uint32_t last = std::min(first + 5, first < split ? split : rows);
      BOOST_TEST(pack_e4m3_rows_host(codes.data() + std::size_t{first} * cols, scales[first >= split], rows, cols,
                                     first, last, packed.data()));
      first = last;
    }
    const auto have = values(packed_form::f8, packed, rows, cols);
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const float want = e4m3_to_f32(std::to_integer<std::uint8_t>(codes[i])) * scales[i / cols >= split];
      wrong += std::bit_cast<std::uint32_t>(have[i]) != std::bit_cast<std::uint32_t>(want);
    }
    BOOST_TEST(wrong == 0u, rows << " x " << cols);
    for (std::uint32_t r = rows; r < packed::tiles(rows) * packed::tile_rows; ++r) {
      float scale;
      std::memcpy(&scale, packed.data() + packed::row_scales_offset(rows, cols) + std::size_t{r} * sizeof scale,
                  sizeof scale);
      BOOST_TEST(scale == 0.0f);
    }
    codes[codes.size() / 2] = std::byte{0xff};
    BOOST_TEST(!pack_e4m3_rows_host(codes.data(), 1.0f, rows, cols, 0, rows, packed.data()));
  }
}

BOOST_AUTO_TEST_CASE(e4m3_values_are_those_of_the_format) {
  for (int code = 0; code < 256; ++code) {
    const int exponent = (code >> 3) & 15, mantissa = code & 7;
    double want = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    if (code & 0x80) want = -want;
    const float have = e4m3_to_f32(static_cast<std::uint8_t>(code));
    if ((code & 0x7f) == 0x7f)
      BOOST_TEST(std::isnan(have), code);
    else
      BOOST_TEST(double{have} == want, code);
  }
}

BOOST_AUTO_TEST_SUITE_END()
