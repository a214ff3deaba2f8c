#include "kernels/gpu/attention_mma.cuh"

namespace troupe::kernels::gpu {

cudaError_t attention_f16_e4m3(const attention_args& a, cudaStream_t stream) {
  return launch_attention_mma<__half, true>(a, stream);
}

}  // namespace troupe::kernels::gpu
