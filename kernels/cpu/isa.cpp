#include "kernels/cpu/isa.hpp"

#include <algorithm>
#include <cstdlib>

namespace troupe::kernels::cpu {

bool isa_supported(isa tier) {
  switch (tier) {
    case isa::scalar: return true;
    case isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
             __builtin_cpu_supports("f16c");
    case isa::avx512:
      return isa_supported(isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vnni");
  }
  return false;
}

std::string_view name(isa tier) {
  switch (tier) {
    case isa::avx2: return "avx2";
    case isa::avx512: return "avx512";
    default: return "scalar";
  }
}

isa best_isa() {
  isa best = isa_supported(isa::avx512) ? isa::avx512 : isa_supported(isa::avx2) ? isa::avx2 : isa::scalar;
  if (const char* wish = std::getenv("TROUPE_ISA"))
    for (isa tier : {isa::scalar, isa::avx2, isa::avx512})
      if (name(tier) == wish) best = std::min(best, tier);
  return best;
}

}  // namespace troupe::kernels::cpu
