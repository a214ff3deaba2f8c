#pragma once
#include <cuda_runtime_api.h>

#include <tuple>
#include <typeinfo>
#include <utility>

#include "simt/device.hpp"
#include "simt/launch.hpp"
#include "simt/warp.hpp"

/// CUDA C++ as far as kernels/gpu speaks it: qualifiers that mean nothing here, the names of a thread's place, and what
/// only templates can say of the runtime.

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
/// Blocks run one after another on a thread of the host, so its memory is the block's.
#define __shared__ static thread_local

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  std::tuple<Parameters...> held(std::forward<Arguments>(arguments)...);
  return simt::launch(*config, reinterpret_cast<const void*>(kernel), typeid(kernel).name(),
                      [kernel, held = std::move(held)] { std::apply(kernel, held); });
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
  return simt::set_most_shared_bytes(reinterpret_cast<const void*>(kernel), value);
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int threads, std::size_t shared_bytes) {
  return simt::blocks_per_sm(blocks, threads, shared_bytes);
}
