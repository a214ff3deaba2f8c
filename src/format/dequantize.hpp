#pragma once
#include <cstddef>
#include <span>

#include "src/base/result.hpp"
#include "src/format/tensor_view.hpp"

namespace troupe::format {

/// True for what `dequantize` takes: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS, MXFP4,
/// F8_E4M3 (without the scale that its file has beside it: tensor_view::scale).
constexpr bool can_dequantize(dtype type) noexcept { return kernels::traits(type).readable; }

/// Writes `n_elements` values as f32: the slow, plain reference that every faster path is compared with. Bit for bit
/// what gguf-py's quants.dequantize computes in f32 (no fused operations). Requires can_dequantize(type), n_elements in
/// whole blocks, and bytes_of(type, n_elements) bytes at src, of any alignment.
void dequantize(dtype type, const std::byte* src, float* dst, std::size_t n_elements) noexcept;

/// Rows [first, first + n_rows) of a tensor seen as rows of shape.row() elements, multiplied with its scale; dst holds
/// n_rows * shape.row() values. Fails with `unsupported` for a type that cannot be dequantized, with `invalid_argument`
/// if the range or dst does not fit.
result<void> dequantize_rows(const tensor_view&, std::uint64_t first, std::uint64_t n_rows, std::span<float> dst);

/// The whole tensor.
result<void> dequantize(const tensor_view&, std::span<float> dst);

}  // namespace troupe::format
