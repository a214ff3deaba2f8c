#include "kernels/cpu/attention_impl.hpp"
#include "kernels/cpu/attention_tiers.hpp"

namespace troupe::kernels::cpu {
const attention_kernels attention_kernels_avx512 = table;
}
