#include "src/gpu/blas_library.hpp"

#include <string>

#include "src/gpu/dynamic_library.hpp"

namespace troupe::gpu {
namespace {

struct loaded {
  blas_library library{};
  std::string problem;
};

loaded load() {
  loaded l;
  // The version of the headers: its structures are what the calls take.
  dynamic_library file("libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR));
  file.look_up("cublasLtCreate", l.library.create);
  file.look_up("cublasLtDestroy", l.library.destroy);
  file.look_up("cublasLtGetStatusString", l.library.status_string);
  file.look_up("cublasLtMatmul", l.library.matmul);
  file.look_up("cublasLtMatmulAlgoGetHeuristic", l.library.heuristic);
  file.look_up("cublasLtMatmulAlgoCheck", l.library.algo_check);
  file.look_up("cublasLtGetVersion", l.library.version);
  file.look_up("cublasLtMatmulDescCreate", l.library.descriptor_create);
  file.look_up("cublasLtMatmulDescDestroy", l.library.descriptor_destroy);
  file.look_up("cublasLtMatmulDescSetAttribute", l.library.descriptor_set);
  file.look_up("cublasLtMatrixLayoutCreate", l.library.layout_create);
  file.look_up("cublasLtMatrixLayoutDestroy", l.library.layout_destroy);
  file.look_up("cublasLtMatmulPreferenceCreate", l.library.preference_create);
  file.look_up("cublasLtMatmulPreferenceDestroy", l.library.preference_destroy);
  file.look_up("cublasLtMatmulPreferenceSetAttribute", l.library.preference_set);
  l.problem = file.problem();
  return l;
}

}  // namespace

result<const blas_library*> blas_library::get() {
  static const loaded l = load();
  if (!l.problem.empty())
    return failure(errc::not_found, "cuBLASLt cannot be loaded: " + l.problem + ": install CUDA " +
                                        std::to_string(CUBLAS_VER_MAJOR) +
                                        "'s libraries or name their folder in LD_LIBRARY_PATH");
  return &l.library;
}

}  // namespace troupe::gpu
