#pragma once
#include <cstdint>

#include "kernels/cpu/matmul.hpp"

/// What the matmul sources of the tiers tell each other; private to them.
namespace troupe::kernels::cpu {

extern const matmul_kernels avx2_matmul_kernels;
extern const matmul_kernels avx512_matmul_kernels;

/// The AVX-512 tier uses it too.
void quantize_rows_avx2(const float* x, std::size_t ld, std::uint32_t m, std::uint32_t cols, std::uint32_t first_row,
                        std::uint32_t last_row, activation_group* groups);

/// What the largest magnitude of a group of activations becomes: digits 127 and 0.
inline constexpr float largest_activation = 127.0f * 256.0f;

/// 2^-100: a group of activations whose largest magnitude is below counts as zero, so that divisions by it cannot overflow.
inline constexpr std::uint32_t least_amax_bits = 27u << 23;

}  // namespace troupe::kernels::cpu
