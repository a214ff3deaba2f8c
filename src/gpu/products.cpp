#include "src/gpu/products.hpp"

namespace troupe::gpu {

using kernels::dtype;
using kernels::gpu::gemv_depth;
using kernels::gpu::packed_form;

namespace {

/// From so many tokens on, a packed matrix is worth unpacking once for all of them.
constexpr std::uint32_t unpack_from = 48;

cudaDataType_t type_of(dtype t) { return t == dtype::f32 ? CUDA_R_32F : t == dtype::f16 ? CUDA_R_16F : CUDA_R_16BF; }

void* shifted(void* y, dtype type, std::uint32_t columns) {
  return static_cast<std::byte*>(y) + columns * element_bytes(type);
}

}  // namespace

std::optional<gemv_depth> products::depth_of(choice::maker who) {
  switch (who) {
    case choice::maker::gemv2:
      return gemv_depth::two;
    case choice::maker::gemv4:
      return gemv_depth::four;
    case choice::maker::gemv8:
      return gemv_depth::eight;
    default:
      return std::nullopt;
  }
}

products::choice::~choice() {
  if (operation) lt->descriptor_destroy(operation);
  for (cublasLtMatrixLayout_t l : {a, b, c})
    if (l) lt->layout_destroy(l);
}

result<products> products::make(dtype compute, bool deterministic, void* workspace, std::uint64_t workspace_size,
                                void* dequantized) {
  auto library = blas_library::get();
  if (!library) return library.take_error();
  products p;
  p.lt_ = *library;
  p.compute_ = compute;
  p.deterministic_ = deterministic;
  p.workspace_ = workspace;
  p.workspace_size_ = workspace_size;
  p.dequantized_ = dequantized;
  cublasLtHandle_t h = nullptr;
  if (auto ok = check((*library)->create(&h), "cublasLtCreate"); !ok) return ok.take_error();
  p.handle_.reset(h, p.lt_->destroy);
  return p;
}

/// Column-major to cuBLASLt: y^T [rows, m] = W [rows, cols] x^T [cols, m], where W^T and x^T lie as they are in memory.
result<void> products::describe(const product_shape& s, choice& c) {
  const blas_library& b = *lt_;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  for (const auto& [code, call] : {
           std::pair{b.descriptor_create(&c.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate"},
           std::pair{b.layout_create(&c.a, type_of(s.type), s.cols, s.rows, s.cols), "cublasLtMatrixLayoutCreate"},
           std::pair{b.layout_create(&c.b, type_of(s.type), s.cols, s.m, s.cols), "cublasLtMatrixLayoutCreate"},
           std::pair{b.layout_create(&c.c, type_of(s.y_type), s.rows, s.m, s.ld_y), "cublasLtMatrixLayoutCreate"},
       })
    if (auto ok = check(code, call); !ok) return ok;
  return check(b.descriptor_set(c.operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
               "cublasLtMatmulDescSetAttribute");
}

result<std::vector<cublasLtMatmulHeuristicResult_t>> products::candidates(const choice& c, int most) {
  cublasLtMatmulPreference_t preference = nullptr;
  if (auto ok = check(lt_->preference_create(&preference), "cublasLtMatmulPreferenceCreate"); !ok)
    return ok.take_error();
  std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(most));
  int n = 0;
  cublasStatus_t code = lt_->preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_size_,
                                            sizeof workspace_size_);
  if (code == CUBLAS_STATUS_SUCCESS)
    code = lt_->heuristic(handle_.get(), c.operation, c.a, c.b, c.c, c.c, preference, most, found.data(), &n);
  lt_->preference_destroy(preference);
  if (code != CUBLAS_STATUS_SUCCESS && code != CUBLAS_STATUS_NOT_SUPPORTED)
    return blas_failure(code, "cublasLtMatmulAlgoGetHeuristic");
  found.resize(static_cast<std::size_t>(n));
  return found;
}

result<products::choice*> products::plan(const product_shape& s) {
  auto& slot = plans_[s];
  if (slot) return slot.get();
  auto c = std::make_unique<choice>(lt_);
  if (auto ok = describe(s, *c); !ok) return ok.take_error();
  auto found = candidates(*c, 1);
  if (!found) return found.take_error();
  if (found->empty())
    c->who = choice::maker::matmul;  // a shape that cuBLASLt does not take (columns that are not aligned to 16 bytes)
  else
    c->algorithm = found->front().algo;
  slot = std::move(c);
  return slot.get();
}

result<void> products::blas(const choice& c, const void* weight, const product& p, void* y, cudaStream_t stream) {
  const float one = 1.0f, beta = p.accumulate ? 1.0f : 0.0f;
  return check(lt_->matmul(handle_.get(), c.operation, &one, weight, c.a, p.x, c.b, &beta, y, c.c, y, c.c, &c.algorithm,
                           workspace_, workspace_size_, stream),
               "cublasLtMatmul");
}

result<void> products::dense(const linear_part& part, std::uint32_t cols, const void* weight, const product& p,
                             const std::uint32_t* n, std::uint32_t max_tokens, cudaStream_t stream) {
  if (deterministic_) {
    choice own(nullptr);
    own.who = choice::maker::matmul;
    return launch(own, part, cols, weight, p, n, max_tokens, stream);
  }
  auto c = plan({max_tokens, part.rows, cols, p.ld_y, compute_, p.y_type, p.accumulate});
  if (!c) return c.take_error();
  return launch(**c, part, cols, weight, p, n, max_tokens, stream);
}

result<void> products::launch(const choice& c, const linear_part& part, std::uint32_t cols, const void* weight,
                              const product& p, const std::uint32_t* n, std::uint32_t max_tokens, cudaStream_t stream) {
  const kernels::gpu::matmul_args args = arguments(part, cols, weight, p);
  switch (c.who) {
    case choice::maker::blas:
      return blas(c, weight, p, args.y, stream);
    case choice::maker::matmul:
      return check(kernels::gpu::matmul(args, n, max_tokens, stream), "matmul");
    default:
      return check(kernels::gpu::gemv(args, {}, *depth_of(c.who), n, max_tokens, stream), "gemv");
  }
}

kernels::gpu::matmul_args products::arguments(const linear_part& part, std::uint32_t cols, const void* weight,
                                              const product& p) const {
  return {weight,   p.x,    compute_,    part.rows, cols, shifted(p.y, p.y_type, part.first_row),
          p.y_type, p.ld_y, p.accumulate};
}

std::optional<gemv_depth> products::gemv_of(const linear& l, const product& p, std::uint32_t max_tokens) {
  if (deterministic_ || !l.plain()) return std::nullopt;
  auto c = plan({max_tokens, l.rows, l.cols, p.ld_y, compute_, p.y_type, p.accumulate});
  if (!c) return std::nullopt;
  return depth_of((*c)->who);
}

result<bool> products::run_gated(const linear& l, kernels::gpu::gate_activation activation, const product& p,
                                 const std::uint32_t* n, std::uint32_t max_tokens, cudaStream_t stream) {
  // Where the plain product is a gemv, so is this; which it is has been timed as a product of all rows.
  const auto depth = gemv_of(l, {p.x, nullptr, p.y_type, l.rows, false}, max_tokens);
  if (!depth) return false;
  const linear_part& part = l.parts.front();
  if (auto ok = check(kernels::gpu::gemv_gated(arguments(part, l.cols, part.dense, p), activation, {}, *depth, n,
                                               max_tokens, stream),
                      "gemv_gated");
      !ok)
    return ok.take_error();
  return true;
}

result<void> products::run(const linear& l, const product& p, const std::uint32_t* n, std::uint32_t max_tokens,
                           cudaStream_t stream) {
  for (const linear_part& part : l.parts) {
    result<void> ok;
    if (part.packed.form == packed_form::none) {
      ok = dense(part, l.cols, part.dense, p, n, max_tokens, stream);
    } else if (deterministic_ || max_tokens < unpack_from) {
      ok = check(kernels::gpu::packed_matmul({part.packed, p.x, compute_, shifted(p.y, p.y_type, part.first_row),
                                              p.y_type, p.ld_y, p.accumulate},
                                             n, max_tokens, stream),
                 "packed_matmul");
    } else {
      ok = check(kernels::gpu::dequantize(part.packed, dequantized_, compute_, stream), "dequantize");
      if (ok) ok = dense(part, l.cols, dequantized_, p, n, max_tokens, stream);
    }
    if (!ok) return ok;
  }
  return {};
}

}  // namespace troupe::gpu
