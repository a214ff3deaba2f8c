#include "src/gpu/check.hpp"

#include "src/gpu/blas_library.hpp"

namespace troupe::gpu {

failure cuda_failure(cudaError_t code, const char* call) {
  return {code == cudaErrorMemoryAllocation ? errc::out_of_memory : errc::rank_failed,
          std::string(call) + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")"};
}

failure blas_failure(cublasStatus_t code, const char* call) {
  auto library = blas_library::get();
  return {errc::rank_failed,
          std::string(call) + ": " + (library ? (*library)->status_string(code) : "cuBLASLt is not loaded")};
}

}  // namespace troupe::gpu
