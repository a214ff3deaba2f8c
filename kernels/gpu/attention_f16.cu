#include "kernels/gpu/attention_mma.cuh"

namespace troupe::kernels::gpu {

cudaError_t attention_f16(const attention_args& a, cudaStream_t stream) {
  return launch_attention_mma<__half, false>(a, stream);
}

}  // namespace troupe::kernels::gpu
