#pragma once
#include <cstring>
#include <string>

#include "kernels/common/blocks.hpp"
#include "kernels/gpu/quant.hpp"
#include "tests/gpu_kernels/device.hpp"

/// Material of the tests of kernels/gpu/dense.hpp, quant.hpp and experts.hpp.
namespace troupe::test {

inline constexpr kernels::dtype compute_types[] = {kernels::dtype::f32, kernels::dtype::f16, kernels::dtype::bf16};
inline constexpr kernels::dtype block_types[] = {
    kernels::dtype::q4_0,   kernels::dtype::q4_1,   kernels::dtype::q5_0, kernels::dtype::q5_1, kernels::dtype::q8_0,
    kernels::dtype::q2_k,   kernels::dtype::q3_k,   kernels::dtype::q4_k, kernels::dtype::q5_k, kernels::dtype::q6_k,
    kernels::dtype::iq4_nl, kernels::dtype::iq4_xs, kernels::dtype::mxfp4};

inline std::size_t size_of(kernels::dtype type) { return type == kernels::dtype::f32 ? 4 : 2; }

/// Runs `enqueue(stream)` once by itself, or twice from a captured graph.
template <class F>
void run(F&& enqueue, bool captured = false) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  if (!captured) {
    check(enqueue(stream));
  } else {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    check(enqueue(stream));
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 2; ++i) check(cudaGraphLaunch(exec, stream));
    check(cudaStreamSynchronize(stream));
    check(cudaGraphExecDestroy(exec));
    check(cudaGraphDestroy(graph));
  }
  check(cudaStreamSynchronize(stream));
  check(cudaStreamDestroy(stream));
}

inline device_array<std::uint32_t> count(std::uint32_t n) { return device_array<std::uint32_t>(std::vector{n}); }

/// Whether the bytes from `first` on are as poison() left them.
inline bool untouched(std::span<const std::uint8_t> bytes, std::size_t first) {
  for (std::size_t i = first; i < bytes.size(); ++i)
    if (bytes[i] != 0xff) return false;
  return true;
}
inline bool untouched(std::span<const float> x, std::size_t first) {
  return untouched({reinterpret_cast<const std::uint8_t*>(x.data()), x.size_bytes()}, 4 * first);
}

/// Random blocks of a quantized type, as in a file: codes and integer scales are random bits, f16 scales have
/// magnitudes between 2^-8 and 2^-5, the exponents of MXFP4 lie around 1.
inline std::vector<std::byte> random_blocks(std::mt19937& rng, kernels::dtype type, std::size_t n_elements) {
  const kernels::dtype_traits& t = kernels::traits(type);
  std::vector<std::byte> bytes(*kernels::bytes_of(type, n_elements));
  for (std::byte& b : bytes) b = static_cast<std::byte>(rng());
  std::vector<std::size_t> scales;
  using kernels::dtype;
  switch (type) {
    case dtype::q4_1:
    case dtype::q5_1:
    case dtype::q4_k:
    case dtype::q5_k:
      scales = {0, 2};
      break;
    case dtype::q2_k:
      scales = {80, 82};
      break;
    case dtype::q3_k:
      scales = {108};
      break;
    case dtype::q6_k:
      scales = {208};
      break;
    case dtype::mxfp4:
      break;
    default:
      scales = {0};
  }
  for (std::size_t block = 0; block < bytes.size(); block += t.block_bytes) {
    for (std::size_t at : scales) {
      const std::uint16_t bits = static_cast<std::uint16_t>((rng() & 0x8fffu) | 0x1c00u);  // exponent 7 to 10 or 11
      std::memcpy(bytes.data() + block + at, &bits, 2);
    }
    if (type == dtype::mxfp4) bytes[block] = static_cast<std::byte>(120 + rng() % 16);
  }
  return bytes;
}

/// The distance of `out` from `want` in units of the last place of `type` at `want`.
inline double ulps(kernels::dtype type, float out, double want) {
  if (!std::isfinite(out)) return std::numeric_limits<double>::infinity();
  const int digits = type == kernels::dtype::f32 ? 24 : type == kernels::dtype::f16 ? 11 : 8;
  const int lowest = type == kernels::dtype::f16 ? -14 : -126;
  int exponent = lowest + 1;
  if (want != 0) std::frexp(want, &exponent);
  return std::fabs(out - want) / std::ldexp(1.0, std::max(exponent - 1, lowest) - digits + 1);
}

/// The largest of several errors, and where it was.
struct worst {
  double value = 0;
  std::string where;
  void see(double error, const std::string& what) {
    if (!(error <= value)) value = error, where = what;
  }
};
inline std::ostream& operator<<(std::ostream& out, const worst& w) { return out << w.value << " (" << w.where << ")"; }

inline constexpr kernels::gpu::packed_form packed_forms[] = {
    kernels::gpu::packed_form::u4, kernels::gpu::packed_form::u4k, kernels::gpu::packed_form::i8,
    kernels::gpu::packed_form::i6k, kernels::gpu::packed_form::f8};
constexpr bool is_k(kernels::gpu::packed_form f) {
  return f == kernels::gpu::packed_form::u4k || f == kernels::gpu::packed_form::i6k;
}

/// A random packed matrix, packed_bytes() long.
inline std::vector<std::byte> random_packed(std::mt19937& rng, kernels::gpu::packed_form form, std::uint32_t rows,
                                            std::uint32_t cols) {
  using kernels::dtype;
  using kernels::gpu::packed_form;
  std::vector<std::byte> out(kernels::gpu::packed_bytes(form, rows, cols), std::byte{0xff});
  const std::size_t n = std::size_t{rows} * cols;
  if (form == packed_form::f8) {
    kernels::gpu::quantize_rows_host(form, random_normal(rng, n).data(), rows, cols, 0, rows, out.data());
  } else {
    const dtype type = form == packed_form::u4    ? dtype::q4_1
                       : form == packed_form::u4k ? dtype::q4_k
                       : form == packed_form::i8  ? dtype::q8_0
                                                  : dtype::q6_k;
    kernels::gpu::pack_rows_host(type, random_blocks(rng, type, n).data(), rows, cols, 0, rows, out.data());
  }
  return out;
}

}  // namespace troupe::test
