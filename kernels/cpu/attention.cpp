#include "kernels/cpu/attention.hpp"

#include "kernels/cpu/attention_impl.hpp"
#include "kernels/cpu/attention_tiers.hpp"

namespace troupe::kernels::cpu {

const attention_kernels attention_kernels_scalar = table;

const attention_kernels& attention_kernels_for(isa tier) {
  switch (tier) {
    case isa::avx512: return attention_kernels_avx512;
    case isa::avx2: return attention_kernels_avx2;
    default: return attention_kernels_scalar;
  }
}

}  // namespace troupe::kernels::cpu
