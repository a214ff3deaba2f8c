#pragma once
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <string>

#include "src/base/result.hpp"

/// Every CUDA call's code goes through here, with the call's name.
namespace troupe::gpu {

/// out_of_memory for a refused allocation, rank_failed for all else: after a CUDA error a context is not to be trusted.
failure cuda_failure(cudaError_t, const char* call);
failure blas_failure(cublasStatus_t, const char* call);

inline result<void> check(cudaError_t code, const char* call) {
  if (code == cudaSuccess) [[likely]]
    return {};
  return cuda_failure(code, call);
}
inline result<void> check(cublasStatus_t code, const char* call) {
  if (code == CUBLAS_STATUS_SUCCESS) [[likely]]
    return {};
  return blas_failure(code, call);
}

/// Runs calls until one fails and keeps that failure: a step's many launches are checked one by one and told once.
class checked {
 public:
  checked& operator()(cudaError_t code, const char* call) {
    if (code != cudaSuccess && first_.ok()) first_ = cuda_failure(code, call);
    return *this;
  }
  checked& operator()(result<void> r) {
    if (!r && first_.ok()) first_ = std::move(r);
    return *this;
  }
  bool ok() const { return first_.ok(); }
  result<void> take() { return std::move(first_); }

 private:
  result<void> first_;
};

}  // namespace troupe::gpu
