#pragma once
#include <cstddef>

#include "kernels/gpu/launch.hpp"

/// Weights that stay packed in device memory and are dequantized in the kernels that use them.
namespace troupe::kernels::gpu {

/// Device forms of packed matrices; where each bit lies: packed_layout.hpp.
/// - u4: codes 0..15 in groups of 32 columns, f16 scale and minimum per group, x = scale * code + min (Q4_0, Q4_1)
/// - u4k: the same with 6-bit scales and minima under one f16 pair per 256 columns (Q4_K)
/// - i8: signed codes, f16 scale per group of 32 (Q8_0, int8)
/// - i6k: codes -32..31, int8 scales per 16 columns under one f16 per 256 (Q6_K)
/// - f8: e4m3 codes, none of them NaN, with one f32 scale per row (fp8 per tensor: the same scale in every row)
/// Values equal the format's own, computed in f32 as common/blocks.hpp says. Q4_0's minimum is -8 d, so a |d| beyond
/// 8188, which no model has, would become infinite.
enum class packed_form : std::uint8_t { none, u4, u4k, i8, i6k, f8 };

packed_form form_of(dtype gguf_type);  ///< none: dequantize it at load, or, for F8_E4M3, pack_e4m3_rows_host

/// A packed matrix on the device; cols a multiple of 32 (256 for the k forms).
struct packed_weight {
  packed_form form;
  std::uint32_t rows, cols;
  const std::byte* data;  ///< packed_bytes() long, aligned to 256
};
std::uint64_t packed_bytes(packed_form, std::uint32_t rows, std::uint32_t cols);

/// Host: rows [first_row, last_row) of a matrix as it lies in a GGUF (`type`, row-major blocks, any alignment) into the
/// same rows of a whole packed matrix at `packed_host`. Bit-exact. Disjoint ranges may run at once.
void pack_rows_host(dtype type, const std::byte* source, std::uint32_t rows, std::uint32_t cols,
                    std::uint32_t first_row, std::uint32_t last_row, std::byte* packed_host);
/// Host: quantizes f32 rows [first_row, last_row), `source` pointing at the first of them, into form i8 (scale = amax /
/// 127 per group), u4 (min and max of a group to codes 0 and 15) or f8 (scale = amax of the row / 448).
void quantize_rows_host(packed_form, const float* source, std::uint32_t rows, std::uint32_t cols,
                        std::uint32_t first_row, std::uint32_t last_row, std::byte* packed_host);

/// Host: rows [first_row, last_row) of e4m3 codes, `source` pointing at the first of them, into form f8 with `scale`
/// for each of these rows. Codes keep every bit; false: one of them is NaN, which the form cannot hold.
bool pack_e4m3_rows_host(const std::byte* source, float scale, std::uint32_t rows, std::uint32_t cols,
                         std::uint32_t first_row, std::uint32_t last_row, std::byte* packed_host);

/// out[r][c] of `type` for all rows: for products with many tokens.
cudaError_t dequantize(const packed_weight&, void* out, dtype type, cudaStream_t);

/// y = x W^T for few tokens, streaming W once per 8 tokens, or 16 where there may be more: x [n, cols] of `type`,
/// y [n, rows] of y_type with leading dimension ld_y in elements, or y += in f32 where `accumulate`. n = *n_tokens <=
/// max_tokens. f32 sums; the order of a sum depends on the matrix's shape only, so rows do not depend on n.
struct packed_matmul_args {
  packed_weight weight;
  const void* x;
  dtype type;
  void* y;
  dtype y_type;
  std::uint32_t ld_y;
  bool accumulate;
};
cudaError_t packed_matmul(const packed_matmul_args&, const std::uint32_t* n_tokens, std::uint32_t max_tokens,
                          cudaStream_t);

}  // namespace troupe::kernels::gpu
