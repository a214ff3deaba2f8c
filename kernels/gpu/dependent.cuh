#pragma once
#include <cuda_runtime.h>

#include <utility>

#include "kernels/gpu/ptx.cuh"

/// How kernels are launched, and how one gets its dynamic shared memory. No kernel is launched by <<< >>>, which is not
/// C++: these functions are, so tests/simt compiles the same files.
///
/// Programmatic dependent launch: a kernel is put on the card while the one before it still runs, and waits there for
/// its results. What such a kernel does before it waits (fetching weights) costs no time of its own.
///
/// The rule: a kernel launched by `launch_dependent` calls wait_for_previous() first thing on every thread, before it
/// reads anything that a kernel has written or writes anything that one may read; only what never changes in a step may
/// be touched before. A kernel of either kind may call let_next_start(), as early as it likes. Cards before sm_90 know
/// none of it: there kernels follow each other as usual.
namespace troupe::kernels::gpu {

__device__ inline void let_next_start() { ptx::griddepcontrol_launch_dependents(); }
/// All kernels before are done and what they wrote can be read.
__device__ inline void wait_for_previous() { ptx::griddepcontrol_wait(); }

using ptx::dynamic_shared;

/// kernel<<<grid, block, shared_bytes, stream>>>(arguments...) and what cudaGetLastError says of it.
template <class... Parameters, class... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                          cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  (void)cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...);
  return cudaGetLastError();
}

template <class... Parameters, class... Arguments>
cudaError_t launch_dependent(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                             cudaStream_t stream, Arguments&&... arguments) {
  static const bool known = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
  }();
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = known ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...);
}

}  // namespace troupe::kernels::gpu
