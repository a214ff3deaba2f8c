#include "src/gpu/blas_library.hpp"

#include <dlfcn.h>

#include <string>

namespace troupe::gpu {
namespace {

struct loaded {
  blas_library library{};
  std::string problem;
};

template <class F>
void look_up(void* handle, const char* name, F& f, std::string& problem) {
  f = reinterpret_cast<F>(dlsym(handle, name));
  if (!f && problem.empty()) problem = std::string("it has no ") + name;
}

loaded load() {
  loaded l;
  // The version of the headers: its structures are what the calls take.
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* const handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* const why = dlerror();
    l.problem = why ? why : name;
    return l;
  }
  look_up(handle, "cublasLtCreate", l.library.create, l.problem);
  look_up(handle, "cublasLtDestroy", l.library.destroy, l.problem);
  look_up(handle, "cublasLtGetStatusString", l.library.status_string, l.problem);
  look_up(handle, "cublasLtMatmul", l.library.matmul, l.problem);
  look_up(handle, "cublasLtMatmulAlgoGetHeuristic", l.library.heuristic, l.problem);
  look_up(handle, "cublasLtMatmulAlgoCheck", l.library.algo_check, l.problem);
  look_up(handle, "cublasLtGetVersion", l.library.version, l.problem);
  look_up(handle, "cublasLtMatmulDescCreate", l.library.descriptor_create, l.problem);
  look_up(handle, "cublasLtMatmulDescDestroy", l.library.descriptor_destroy, l.problem);
  look_up(handle, "cublasLtMatmulDescSetAttribute", l.library.descriptor_set, l.problem);
  look_up(handle, "cublasLtMatrixLayoutCreate", l.library.layout_create, l.problem);
  look_up(handle, "cublasLtMatrixLayoutDestroy", l.library.layout_destroy, l.problem);
  look_up(handle, "cublasLtMatmulPreferenceCreate", l.library.preference_create, l.problem);
  look_up(handle, "cublasLtMatmulPreferenceDestroy", l.library.preference_destroy, l.problem);
  look_up(handle, "cublasLtMatmulPreferenceSetAttribute", l.library.preference_set, l.problem);
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
