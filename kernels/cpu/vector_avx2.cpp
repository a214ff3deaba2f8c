#include "kernels/cpu/vector_impl.hpp"
#include "kernels/cpu/vector_tiers.hpp"

namespace troupe::kernels::cpu {
const vector_kernels vector_kernels_avx2 = table;
}
