#include "src/gpu/check.hpp"

namespace troupe::gpu {

failure cuda_failure(cudaError_t code, const char* call) {
  return {code == cudaErrorMemoryAllocation ? errc::out_of_memory : errc::rank_failed,
          std::string(call) + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")"};
}

failure blas_failure(cublasStatus_t code, const char* call) {
  return {errc::rank_failed, std::string(call) + ": " + cublasLtGetStatusString(code)};
}

}  // namespace troupe::gpu
