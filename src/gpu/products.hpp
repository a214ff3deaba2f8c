#pragma once
#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "kernels/common/dtype.hpp"
#include "kernels/gpu/gemv.hpp"
#include "kernels/gpu/matmul.hpp"
#include "src/gpu/blas_library.hpp"
#include "src/gpu/device.hpp"
#include "src/gpu/device_weights.hpp"

/// Products of a step's activations with linear layers: who computes which size.
namespace troupe::gpu {

/// y = x W^T for *n of at most max_tokens rows.
struct product {
  const void* x;          ///< [max_tokens, cols] of the compute type
  void* y;                ///< [max_tokens, ld_y]: of y_type
  kernels::dtype y_type;  ///< f32 or the compute type
  std::uint32_t ld_y;
  bool accumulate = false;  ///< y += in f32
};

/// A problem as cuBLASLt sees it; the key of the table of plans.
struct product_shape {
  std::uint32_t m, rows, cols, ld_y;  ///< m: tokens
  kernels::dtype type, y_type;
  bool accumulate;
  auto operator<=>(const product_shape&) const = default;
};

/// Chooses and launches. Thread: the rank's. Nothing is allocated in a step but a plan's first use, which is on the
/// host.
class products {
 public:
  static result<products> make(kernels::dtype compute, bool deterministic, void* workspace,
                               std::uint64_t workspace_bytes, void* dequantized);

  /// Enqueues y = x W^T; W's parts one after the other. Unpacked parts: what `tune` found fastest, else cuBLASLt where
  /// it takes the shape; in deterministic mode our own kernel whose result does not depend on the number of tokens.
  /// Packed parts: dequantized inside the product while there are few tokens, and always in deterministic mode; else
  /// into scratch first.
  result<void> run(const linear&, const product&, const std::uint32_t* n, std::uint32_t max_tokens, cudaStream_t);

  /// The gemv that `run` would compute an unpacked layer of one part with; nothing where that is not a gemv.
  std::optional<kernels::gpu::gemv_depth> gemv_of(const linear&, const product&, std::uint32_t max_tokens);

  /// The first half of a gated MLP, y [n, rows / 2] of the compute type, where one kernel does that: false, and nothing
  /// enqueued, where it takes a product and the activation after it.
  result<bool> run_gated(const linear& gate_up, kernels::gpu::gate_activation, const product&, const std::uint32_t* n,
                         std::uint32_t max_tokens, cudaStream_t);

  /// Times, for the unpacked parts of these alike layers, what cuBLASLt offers for steps of max_tokens and our own
  /// kernels, and keeps the fastest; layers are taken in turn so that weights come from memory as in a step. Overwrites
  /// y and waits for the stream. *n must be max_tokens. Nothing to do in deterministic mode, or where the choice is
  /// known. gemv_saves_us: what else a gemv spares the step.
  result<void> tune(std::span<const linear* const> layers, const product&, const std::uint32_t* n,
                    std::uint32_t max_tokens, cudaStream_t, float gemv_saves_us = 0);

  /// Choices of an earlier run on this card with this cuBLASLt; lines that do not fit are passed over. A choice is a
  /// matter of speed only, so a missing or damaged file is no error.
  void read_choices(const std::string& path);
  /// All choices made so far; replaces the file. Errors: io_failed.
  result<void> write_choices(const std::string& path) const;

  static constexpr std::uint64_t workspace_bytes = 32u << 20;

 private:
  struct choice {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
    cublasLtMatmulAlgo_t algorithm{};
    enum class maker : std::uint8_t {
      blas,
      matmul,
      gemv2,
      gemv4,
      gemv8
    } who = maker::blas;  ///< cuBLASLt or a kernel of ours
    bool timed = false;   ///< else it is the heuristic's first
    const blas_library* lt;
    explicit choice(const blas_library* library) : lt(library) {}
    ~choice();
    choice(const choice&) = delete;
    choice& operator=(const choice&) = delete;
  };
  static std::optional<kernels::gpu::gemv_depth> depth_of(choice::maker);
  result<choice*> plan(const product_shape&);
  result<void> describe(const product_shape&, choice&);
  result<std::vector<cublasLtMatmulHeuristicResult_t>> candidates(const choice&, int most);
  result<float> time(const choice&, std::span<const linear* const> layers, std::size_t part, const product&,
                     const std::uint32_t* n, std::uint32_t max_tokens, cudaStream_t);
  kernels::gpu::matmul_args arguments(const linear_part&, std::uint32_t cols, const void* weight, const product&) const;
  result<void> blas(const choice&, const void* weight, const product&, void* y, cudaStream_t);
  result<void> dense(const linear_part&, std::uint32_t cols, const void* weight, const product&, const std::uint32_t* n,
                     std::uint32_t max_tokens, cudaStream_t);
  result<void> launch(const choice&, const linear_part&, std::uint32_t cols, const void* weight, const product&,
                      const std::uint32_t* n, std::uint32_t max_tokens, cudaStream_t);
  std::string signature() const;  ///< what a file's choices are good for

  kernels::dtype compute_ = kernels::dtype::bf16;
  bool deterministic_ = false;
  const blas_library* lt_ = nullptr;
  std::shared_ptr<cublasLtContext> handle_;
  void* workspace_ = nullptr;
  std::uint64_t workspace_size_ = 0;
  void* dequantized_ = nullptr;
  std::map<product_shape, std::unique_ptr<choice>> plans_;
};

}  // namespace troupe::gpu
