#pragma once
#include "kernels/cpu/attention.hpp"

namespace troupe::kernels::cpu {

extern const attention_kernels attention_kernels_scalar;
extern const attention_kernels attention_kernels_avx2;
extern const attention_kernels attention_kernels_avx512;

}  // namespace troupe::kernels::cpu
