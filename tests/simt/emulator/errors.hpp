#pragma once
#include <cuda_runtime_api.h>

namespace simt {

/// Passes a code on and keeps an error for cudaGetLastError of this thread.
cudaError_t told(cudaError_t);

}  // namespace simt
