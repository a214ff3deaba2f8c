// Takes the place of src/gpu/blas_library.cpp: cuBLASLt as plain loops, which know the one form that src/gpu asks for,
// D = alpha A^T B + beta C of column-major matrices, sums in f32 in ascending order of the common dimension.
#include "src/gpu/blas_library.hpp"

#include <cstddef>

#include "kernels/common/floats.hpp"
#include "simt/launch.hpp"

struct simt_matmul {
  bool transposed_a = false;
};
struct simt_matrix {
  cudaDataType_t type;
  std::uint64_t rows, cols;
  std::int64_t ld;

  std::size_t at(std::uint64_t row, std::uint64_t col) const { return col * static_cast<std::size_t>(ld) + row; }
};
struct simt_preference {};

namespace {

float element(const void* data, cudaDataType_t type, std::size_t i) {
  if (type == CUDA_R_32F) return static_cast<const float*>(data)[i];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[i];
  return type == CUDA_R_16F ? troupe::kernels::f16_to_f32(bits) : troupe::kernels::bf16_to_f32(bits);
}
void put(void* data, cudaDataType_t type, std::size_t i, float x) {
  if (type == CUDA_R_32F)
    static_cast<float*>(data)[i] = x;
  else
    static_cast<std::uint16_t*>(data)[i] =
        type == CUDA_R_16F ? troupe::kernels::f32_to_f16(x) : troupe::kernels::f32_to_bf16(x);
}

/// A column as f32.
std::vector<float> column(const void* data, const simt_matrix& m, std::uint64_t col) {
  std::vector<float> out(m.rows);
  for (std::uint64_t i = 0; i < m.rows; ++i) out[i] = element(data, m.type, m.at(i, col));
  return out;
}

bool fits(const simt_matmul& op, const simt_matrix& a, const simt_matrix& b, const simt_matrix& d) {
  // As cuBLASLt, which does not take columns that begin anywhere.
  const auto aligned = [](const simt_matrix& m) {
    return static_cast<std::size_t>(m.ld) * (m.type == CUDA_R_32F ? 4 : 2) % 16 == 0;
  };
  return op.transposed_a && a.rows == b.rows && a.cols == d.rows && b.cols == d.cols && aligned(a) && aligned(b);
}

}  // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t* h) {
  static char handle;
  *h = reinterpret_cast<cublasLtHandle_t>(&handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
const char* cublasLtGetStatusString(cublasStatus_t) { return "the emulated cuBLASLt refuses"; }
std::size_t cublasLtGetVersion() { return 0; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t, cudaDataType_t) {
  *d = new simt_matmul;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
  delete d;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t, const void* value,
                                              std::size_t size) {
  if (size != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
  d->transposed_a = *static_cast<const cublasOperation_t*>(value) == CUBLAS_OP_T;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* m, cudaDataType_t type, std::uint64_t rows,
                                          std::uint64_t cols, std::int64_t ld) {
  *m = new simt_matrix{type, rows, cols, ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t m) {
  delete m;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* p) {
  *p = new simt_preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  delete p;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, std::size_t) {
  return CUBLAS_STATUS_SUCCESS;
}

/// There is one algorithm.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t op, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  const cublasLtMatmulAlgo_t only{};
  *found = 0;
  if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  const cublasStatus_t code = cublasLtMatmulAlgoCheck(h, op, a, b, c, d, &only, results);
  *found = code == CUBLAS_STATUS_SUCCESS;
  return code;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t op, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algo, cublasLtMatmulHeuristicResult_t* result) {
  if (!fits(*op, *a, *b, *d)) return CUBLAS_STATUS_NOT_SUPPORTED;
  *result = {*algo, 0, CUBLAS_STATUS_SUCCESS, 1.0f, {}};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t op, const void* alpha, const void* a_data,
                              cublasLtMatrixLayout_t a, const void* b_data, cublasLtMatrixLayout_t b, const void* beta,
                              const void* c_data, cublasLtMatrixLayout_t c, void* d_data, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t*, void*, std::size_t, cudaStream_t stream) {
  if (!fits(*op, *a, *b, *d)) return CUBLAS_STATUS_NOT_SUPPORTED;
  const float by = *static_cast<const float*>(alpha), old = *static_cast<const float*>(beta);
  // The layouts may be gone when the stream comes to it.
  const auto run = [=, a = *a, b = *b, c = *c, d = *d]() -> std::string {
    std::vector<std::vector<float>> tokens;
    for (std::uint64_t j = 0; j < b.cols; ++j) tokens.push_back(column(b_data, b, j));
    for (std::uint64_t i = 0; i < a.cols; ++i) {
      const std::vector<float> weights = column(a_data, a, i);
      for (std::uint64_t j = 0; j < b.cols; ++j) {
        float sum = 0;
        for (std::uint64_t k = 0; k < a.rows; ++k) sum += weights[k] * tokens[j][k];
        sum *= by;
        if (old != 0) sum += old * element(c_data, c.type, c.at(i, j));
        put(d_data, d.type, d.at(i, j), sum);
      }
    }
    return {};
  };
  return simt::enqueue(stream, run) == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

namespace troupe::gpu {

result<const blas_library*> blas_library::get() {
  static const blas_library all{
      cublasLtCreate,
      cublasLtDestroy,
      cublasLtGetStatusString,
      cublasLtMatmul,
      cublasLtMatmulAlgoGetHeuristic,
      cublasLtMatmulAlgoCheck,
      cublasLtGetVersion,
      cublasLtMatmulDescCreate,
      cublasLtMatmulDescDestroy,
      cublasLtMatmulDescSetAttribute,
      cublasLtMatrixLayoutCreate,
      cublasLtMatrixLayoutDestroy,
      cublasLtMatmulPreferenceCreate,
      cublasLtMatmulPreferenceDestroy,
      cublasLtMatmulPreferenceSetAttribute,
  };
  return &all;
}

}  // namespace troupe::gpu
