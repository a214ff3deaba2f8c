#pragma once
#include <cublasLt.h>

#include "src/base/result.hpp"

namespace troupe::gpu {

/// cuBLASLt, loaded when a GPU rank is made: a program that computes on the CPU neither needs nor loads its half
/// gigabyte.
struct blas_library {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoCheck) algo_check;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtMatmulDescCreate) descriptor_create;
  decltype(&cublasLtMatmulDescDestroy) descriptor_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) descriptor_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;

  /// The one of this process; loaded at the first call, never unloaded. Any thread. Errors: not_found.
  static result<const blas_library*> get();
};

}  // namespace troupe::gpu
