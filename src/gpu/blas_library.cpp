#include "src/gpu/blas_library.hpp"

#include <string>

#include "src/gpu/dynamic_library.hpp"

namespace troupe::gpu {
namespace {

void look_up(dynamic_library& file, blas_library& l) {
  file.look_up("cublasLtCreate", l.create);
  file.look_up("cublasLtDestroy", l.destroy);
  file.look_up("cublasLtGetStatusString", l.status_string);
  file.look_up("cublasLtMatmul", l.matmul);
  file.look_up("cublasLtMatmulAlgoGetHeuristic", l.heuristic);
  file.look_up("cublasLtMatmulAlgoCheck", l.algo_check);
  file.look_up("cublasLtGetVersion", l.version);
  file.look_up("cublasLtMatmulDescCreate", l.descriptor_create);
  file.look_up("cublasLtMatmulDescDestroy", l.descriptor_destroy);
  file.look_up("cublasLtMatmulDescSetAttribute", l.descriptor_set);
  file.look_up("cublasLtMatrixLayoutCreate", l.layout_create);
  file.look_up("cublasLtMatrixLayoutDestroy", l.layout_destroy);
  file.look_up("cublasLtMatmulPreferenceCreate", l.preference_create);
  file.look_up("cublasLtMatmulPreferenceDestroy", l.preference_destroy);
  file.look_up("cublasLtMatmulPreferenceSetAttribute", l.preference_set);
}

}  // namespace

result<const blas_library*> blas_library::get() {
  // The version of the headers: its structures are what the calls take.
  static const std::string version = std::to_string(CUBLAS_VER_MAJOR);
  static const auto library =
      load_library("libcublasLt.so." + version, "cuBLASLt",
                   "install CUDA " + version + "'s libraries or name their folder in LD_LIBRARY_PATH", look_up);
  if (!library) return library.error();
  return &*library;
}

}  // namespace troupe::gpu
