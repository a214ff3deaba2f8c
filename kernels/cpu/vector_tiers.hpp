#pragma once
#include "kernels/cpu/vector.hpp"

namespace troupe::kernels::cpu {

extern const vector_kernels vector_kernels_scalar;
extern const vector_kernels vector_kernels_avx2;
extern const vector_kernels vector_kernels_avx512;

}  // namespace troupe::kernels::cpu
