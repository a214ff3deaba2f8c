#include "kernels/cpu/matmul.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/common/blocks.hpp"
#include "kernels/cpu/matmul_layout.hpp"
#include "kernels/cpu/matmul_tiers.hpp"

// The scalar tier: what every other tier must equal bit for bit, written to be read.
namespace troupe::kernels::cpu {
namespace {

template <class T>
T load(const std::byte* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

void add_code(activation_digit& d, std::uint32_t i, int code) {
  d.codes[i] = static_cast<std::int8_t>(code);
  d.pair_sums[i / 16 * 2 + i % 4 / 2] += static_cast<std::int16_t>(code);
  d.pair_sums[4 + i % 4 / 2] += static_cast<std::int16_t>(code);
  d.half_sums[i / 16] += static_cast<std::int16_t>(code);
}

void quantize_group(const float* x, activation_group& g) {
  // Bit patterns of magnitudes order like the magnitudes, with infinity and NaN above all numbers.
  std::uint32_t amax_bits = 0;
  for (std::uint32_t i = 0; i < group_size; ++i)
    amax_bits = std::max(amax_bits, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu);
  const float amax = std::bit_cast<float>(amax_bits);
  g = {};
  if (amax_bits < least_amax_bits) return;
  g.scale = amax / largest_activation;
  if (amax_bits >= 0x7f800000u) {
    g.scaled_sum = g.scale * 0.0f;
    return;
  }
  const float inverse = largest_activation / amax;
  std::int32_t sum = 0;
  for (std::uint32_t i = 0; i < group_size; ++i) {
    // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low mantissa bits.
    const auto rounded = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(x[i] * inverse + 12582912.0f));
    const int code = rounded - 0x4b400000;
    const int first = (code + 128) >> 8, last = std::max(code - 256 * first, -127);
    add_code(g.digits[0], i, first);
    add_code(g.digits[1], i, last);
    sum += 256 * first + last;
  }
  g.scaled_sum = g.scale * static_cast<float>(sum);
}

void quantize_rows(const float* x, std::size_t ld, std::uint32_t m, std::uint32_t cols, std::uint32_t first_row,
                   std::uint32_t last_row, activation_group* groups) {
  for (std::uint32_t r = first_row; r < last_row; ++r)
    for (std::uint32_t g = 0; g < cols / group_size; ++g)
      quantize_group(x + r * ld + std::size_t{g} * group_size, groups[quantized_index(r, g, m, cols)]);
}

/// One group of one tile as numbers.
struct plain_group {
  std::int16_t codes[tile_rows][group_size];  ///< signed, offsets taken off
  std::int32_t scales[tile_rows][2];          ///< integer scales of the halves; 1 where a type has none
  std::int32_t mins[tile_rows][2];            ///< integer minima of the halves (Q2_K)
  float d[tile_rows];
  float min[tile_rows];  ///< what the sum of activations is multiplied by
};

template <layout L>
int code_at(const std::byte* group, int row, int column) {
  const int slice = column / 4;
  const std::byte* at = group + 4 * row + column % 4;
  const auto byte = [at](std::size_t offset) { return std::to_integer<int>(at[offset]); };
  if constexpr (L.bits == 8) return static_cast<std::int8_t>(byte(64u * slice));
  int code = 0, shift = 0;
  if constexpr (L.bits >= 4) {
    code = (byte(64u * (slice % 4)) >> (4 * (slice / 4))) & 15;
    shift = 4;
  }
  if constexpr (L.bits == 2 || L.bits == 3 || L.bits == 6) {
    code |= ((byte(L.pair_plane() + 64u * (slice % 2)) >> (2 * (slice / 2))) & 3) << shift;
    shift += 2;
  }
  if constexpr (L.bits == 3 || L.bits == 5) code |= ((byte(L.bit_plane()) >> slice) & 1) << shift;
  if constexpr (L.values == table::iq4) return iq4_values[code];
  if constexpr (L.values == table::mxfp4) return mxfp4_values[code];
  return code - L.offset;
}

template <layout L>
void read_group(const tile_view<L>& tile, std::uint32_t g, plain_group& out) {
  const std::byte* group = tile.group(g);
  const std::byte* header = tile.header(g);
  const std::byte* scales = group + L.code_bytes();
  const auto half = [](const std::byte* p, int r) { return f16_to_f32(load<f16_bits>(p + 2 * r)); };
  const auto byte = [scales](int i) { return std::to_integer<int>(scales[i]); };
  for (int r = 0; r < static_cast<int>(tile_rows); ++r) {
    for (int k = 0; k < static_cast<int>(group_size); ++k)
      out.codes[r][k] = static_cast<std::int16_t>(code_at<L>(group, r, k));
    for (int h = 0; h < 2; ++h) {
      out.scales[r][h] = 1;
      out.mins[r][h] = 0;
    }
    if constexpr (L.scales == scaling::d) {
      out.d[r] = half(scales, r);
    } else if constexpr (L.scales == scaling::d_m) {
      out.d[r] = half(scales, r);
      out.min[r] = half(scales + 32, r);
    } else if constexpr (L.scales == scaling::f32) {
      out.d[r] = load<float>(scales + 4 * r);
    } else if constexpr (L.scales == scaling::k_scale_min) {
      out.d[r] = half(header, r) * static_cast<float>(byte(r));
      out.min[r] = -(half(header + 32, r) * static_cast<float>(byte(16 + r)));
    } else {
      out.d[r] = half(header, r);
      for (int h = 0; h < 2; ++h) {
        if constexpr (L.scales == scaling::k_scales) {
          out.scales[r][h] = static_cast<std::int8_t>(byte(16 * h + r));
        } else {
          out.scales[r][h] = byte(16 * h + r) & 15;
          out.mins[r][h] = byte(16 * h + r) >> 4;
          out.min[r] = -half(header + 32, r);
        }
      }
    }
  }
}

template <layout L>
float add_group(float acc, const plain_group& w, int row, const activation_group& x) {
  const activation_digit &first = x.digits[0], &last = x.digits[1];
  std::int64_t total = 0, mins = 0;
  for (int h = 0; h < 2; ++h) {
    std::int32_t sum = 0;
    for (int k = 16 * h; k < 16 * h + 16; ++k) sum += w.codes[row][k] * (256 * first.codes[k] + last.codes[k]);
    total += std::int64_t{sum} * w.scales[row][h];
    mins += w.mins[row][h] * (256 * first.half_sums[h] + last.half_sums[h]);
  }
  acc = __builtin_fmaf(static_cast<float>(total), w.d[row] * x.scale, acc);
  if constexpr (L.has_min()) acc = __builtin_fmaf(w.min[row], x.scaled_sum, acc);
  if constexpr (L.scales == scaling::k_scales_mins)
    acc = __builtin_fmaf(static_cast<float>(mins), w.min[row] * x.scale, acc);
  return acc;
}

template <layout L>
void matmul_quantized(const packed_matrix& w, std::uint32_t first_tile, std::uint32_t last_tile,
                      const activation_group* x, std::uint32_t m, float* y, std::size_t ld_y) {
  constexpr std::uint32_t max_rows = 64;
  float acc[max_rows][tile_rows];
  plain_group group;
  for (std::uint32_t tile = first_tile; tile < last_tile; ++tile) {
    const tile_view<L> view{w.data + tile * L.tile_bytes(w.cols)};
    const std::uint32_t n0 = tile * tile_rows, n_rows = std::min(tile_rows, w.rows - n0);
    for (std::uint32_t m0 = 0; m0 < m; m0 += max_rows) {
      const std::uint32_t n_x = std::min(max_rows, m - m0);
      std::memset(acc, 0, sizeof acc);
      for (std::uint32_t g = 0; g < w.cols / group_size; ++g) {
        read_group<L>(view, g, group);
        for (std::uint32_t i = 0; i < n_x; ++i)
          for (std::uint32_t r = 0; r < n_rows; ++r)
            acc[i][r] =
                add_group<L>(acc[i][r], group, static_cast<int>(r), x[quantized_index(m0 + i, g, m, w.cols)]);
      }
      for (std::uint32_t i = 0; i < n_x; ++i) std::memcpy(y + (m0 + i) * ld_y + n0, acc[i], n_rows * sizeof(float));
    }
  }
}

template <class Element, class Convert>
void matmul_float(const packed_matrix& w, std::uint32_t first_tile, std::uint32_t last_tile, const activations& x,
                  std::uint32_t m, float* y, std::size_t ld_y, Convert convert) {
  for (std::uint32_t n = first_tile * tile_rows; n < std::min(w.rows, last_tile * tile_rows); ++n) {
    const std::byte* tile = w.data + n / tile_rows * tile_bytes(w.type, w.cols);
    for (std::uint32_t i = 0; i < m; ++i) {
      float acc = 0;
      for (std::uint32_t k = 0; k < w.cols; ++k) {
        const std::size_t at = (std::size_t{k} * tile_rows + n % tile_rows) * sizeof(Element);
        acc = __builtin_fmaf(convert(load<Element>(tile + at)), x.rows[i * x.ld + k], acc);
      }
      y[i * ld_y + n] = acc;
    }
  }
}

void matmul(const packed_matrix& w, std::uint32_t first_tile, std::uint32_t last_tile, const activations& x,
            std::uint32_t m, float* y, std::size_t ld_y) {
  switch (w.type) {
    case dtype::f32:
      return matmul_float<float>(w, first_tile, last_tile, x, m, y, ld_y, [](float v) { return v; });
    case dtype::f16: return matmul_float<f16_bits>(w, first_tile, last_tile, x, m, y, ld_y, f16_to_f32);
    case dtype::bf16: return matmul_float<bf16_bits>(w, first_tile, last_tile, x, m, y, ld_y, bf16_to_f32);
    default: break;
  }
  with_layout(w.type, [&](auto l) {
    matmul_quantized<decltype(l)::value>(w, first_tile, last_tile, x.groups, m, y, ld_y);
  });
}

constexpr matmul_kernels scalar_kernels{quantize_rows, matmul};

}  // namespace

const matmul_kernels& matmul_kernels_for(isa tier) {
#if defined(__x86_64__)
  if (tier == isa::avx512) return avx512_matmul_kernels;
  if (tier == isa::avx2) return avx2_matmul_kernels;
#endif
  (void)tier;
  return scalar_kernels;
}

}  // namespace troupe::kernels::cpu
