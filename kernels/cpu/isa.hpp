#pragma once
#include <string_view>

namespace troupe::kernels::cpu {

/// The instruction-set tiers a kernel exists for. Every tier computes the same bits.
enum class isa { scalar, avx2, avx512 };

/// The best tier this processor has; the environment variable TROUPE_ISA (scalar, avx2, avx512)
/// lowers it, so that tests run every tier that the machine offers. Never raises it.
isa best_isa();
bool isa_supported(isa);
std::string_view name(isa);

}  // namespace troupe::kernels::cpu
