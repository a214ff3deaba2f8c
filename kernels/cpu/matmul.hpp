#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/common/dtype.hpp"
#include "kernels/cpu/isa.hpp"

/// Matrix products y = x W^T of a weight matrix (rows x cols, as in a model file) with rows of activations.
///
/// What an output element is depends on its weight row and its activation row only: not on how many activation rows are
/// computed together, not on how tiles are divided among threads, not on the tier. For quantized weights, per group of
/// 32 consecutive columns the products of integer codes are summed exactly and rounded once to f32, then the group enters
/// the f32 result by one fused multiply-add (two if the type has a minimum), groups in ascending order. For F32, F16 and
/// BF16 weights the result is one chain of fused multiply-adds over ascending columns.
///
/// Nothing here allocates, throws or keeps state; everything may be called from any thread at any time.
namespace troupe::kernels::cpu {

/// Weights are packed in tiles of this many rows; a thread's share of a product is a range of tiles.
inline constexpr std::uint32_t tile_rows = 16;
/// Activations are quantized in groups of this many columns.
inline constexpr std::uint32_t group_size = 32;

constexpr std::uint32_t n_tiles(std::uint32_t rows) { return rows / tile_rows + (rows % tile_rows != 0); }

/// Whether `matmul` takes weights of this type with this many columns: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0,
/// Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS and MXFP4, where cols > 0 is a multiple of the type's block.
bool can_pack(dtype type, std::uint32_t cols);

/// Whether products with weights of this type read `activations::groups` (else they read `activations::rows`).
bool wants_groups(dtype type);

/// Size of a packed matrix: about the size of the source with rows rounded up to whole tiles. Zero if !can_pack.
std::size_t packed_bytes(dtype type, std::uint32_t rows, std::uint32_t cols);

/// Packs tiles [first_tile, last_tile) of a row-major matrix as it lies in a GGUF or safetensors file (any alignment)
/// into `packed`, which is the start of the whole packed matrix: packed_bytes() long, aligned to 64. Calls with disjoint
/// tile ranges may run at the same time. Rows beyond the matrix become zero. Exact: nothing is rounded.
void pack_tiles(dtype type, const std::byte* source, std::uint32_t rows, std::uint32_t cols, std::uint32_t first_tile,
                std::uint32_t last_tile, std::byte* packed);

/// A matrix that `pack_tiles` has filled; a view.
struct packed_matrix {
  dtype type;
  std::uint32_t rows, cols;
  const std::byte* data;
};

/// One base-256 digit, -127 to 127, of 32 integers, and sums of it that products need.
struct activation_digit {
  std::int8_t codes[32];
  std::int16_t pair_sums[6];  ///< of columns i < 16 with i % 4 in {0, 1}, {2, 3}; of columns i >= 16; of all columns
  std::int16_t half_sums[2];  ///< of columns i < 16 and i >= 16
};

/// 32 consecutive activations of one row: x[i] = scale * (256 * digits[0].codes[i] + digits[1].codes[i]). The same
/// unpacked weights meet one digit after the other in byte products, so this is 16 bits for less than the price of two
/// rows of 8 bits; those were not enough where one activation of a group is much larger than its neighbours.
struct alignas(64) activation_group {
  activation_digit digits[2];  ///< of x * (32512 / amax), rounded to nearest even; a last digit of -128 becomes -127
  float scale;                 ///< amax / 32512
  float scaled_sum;            ///< scale * (sum of all 32 integers), rounded once
  std::int32_t unused[6];
};
static_assert(sizeof(activation_group) == 128);

/// Rows of activations are quantized in blocks of this many rows; within a block the groups of one column range lie
/// side by side. Row r, group g of m rows: groups[quantized_index(r, g, m, cols)].
inline constexpr std::uint32_t row_block = 8;
// Always inlined, so that a copy made for a higher tier cannot be the one that others link to.
[[gnu::always_inline]] constexpr std::size_t quantized_index(std::uint32_t row, std::uint32_t group, std::uint32_t m,
                                                             std::uint32_t cols) {
  const std::uint32_t block = row / row_block * row_block;
  const std::uint32_t in_block = m - block < row_block ? m - block : row_block;
  return std::size_t{block} * (cols / group_size) + std::size_t{group} * in_block + row % row_block;
}
/// How many groups m rows of `cols` columns take; cols is a multiple of group_size.
constexpr std::size_t quantized_groups(std::uint32_t m, std::uint32_t cols) {
  return std::size_t{m} * (cols / group_size);
}

/// The right-hand side of a product, m rows. Fill what `wants_groups` asks for; where weights of both kinds meet the
/// same activations, both.
struct activations {
  const float* rows = nullptr;               ///< row r at rows + r * ld, any alignment
  std::size_t ld = 0;                        ///< in floats
  const activation_group* groups = nullptr;  ///< as `quantize_rows` leaves them
};

/// The kernels of one tier. All tiers compute the same bits for finite inputs.
struct matmul_kernels {
  /// Quantizes rows [first_row, last_row) of the m rows at x into `groups`, the start of all quantized_groups(m, cols)
  /// of them. cols is a multiple of group_size. A group whose largest magnitude is below 2^-100 counts as zero; one with
  /// an infinity or a NaN gets a scale that is not finite, so every product with it shows. Disjoint row ranges may run at
  /// the same time.
  void (*quantize_rows)(const float* x, std::size_t ld, std::uint32_t m, std::uint32_t cols, std::uint32_t first_row,
                        std::uint32_t last_row, activation_group* groups);

  /// y[r * ld_y + n] = sum over k of W[n][k] * x[r][k] for r < m and the rows n of tiles [first_tile, last_tile); writes
  /// no other element of y. ld_y in floats. y may not overlap the inputs. Stack use stays below 64 KiB.
  void (*matmul)(const packed_matrix& w, std::uint32_t first_tile, std::uint32_t last_tile, const activations& x,
                 std::uint32_t m, float* y, std::size_t ld_y);
};

/// The tier must be supported by this processor.
const matmul_kernels& matmul_kernels_for(isa tier);

}  // namespace troupe::kernels::cpu
