#include "kernels/gpu/matmul.hpp"

#include "kernels/gpu/experts.hpp"
#include "kernels/gpu/matmul_plain.cuh"
#include "kernels/gpu/matmul_stream.cuh"
#include "kernels/gpu/matmul_tile.cuh"

// Three kernels, one rule: an element of y is a sum over segments of K in ascending order, each one chain of tensor
// core products in ascending blocks of 32 columns (f32: of fused multiply-adds). Columns beyond the last are zeros.
//
//   stream  tiles of up to 32 tokens
//   tile    more tokens
//   plain   f32
//
// Each for the tokens of a step and for the rows of experts (token_rows.cuh).

namespace troupe::kernels::gpu {
namespace {

using namespace matmul_kernels;

struct card {
  int shared_bytes, n_sms;
};
cudaError_t ask(card& c) {
  int device = 0;
  cudaError_t code = cudaGetDevice(&device);
  if (code == cudaSuccess)
    code = cudaDeviceGetAttribute(&c.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (code == cudaSuccess) code = cudaDeviceGetAttribute(&c.n_sms, cudaDevAttrMultiProcessorCount, device);
  return code;
}

constexpr unsigned tiles(std::uint32_t n, std::uint32_t size) { return (n + size - 1) / size; }

template <class Kernel, class Rows>
cudaError_t launch(Kernel kernel, dim3 grid, unsigned threads, int shared_bytes, const matmul_args& a, const Rows& rows,
                   cudaStream_t stream) {
  if (const cudaError_t code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes))
    return code;
  if constexpr (Rows::scattered) {
    return launch_dependent(kernel, grid, threads, static_cast<std::size_t>(shared_bytes), stream, a, rows);
  } else {
    return launch_kernel(kernel, grid, threads, static_cast<std::size_t>(shared_bytes), stream, a, rows);
  }
}

template <class T, class Y, int R, int N, int n_stages, class Rows>
cudaError_t launch_stream(const matmul_args& a, const Rows& rows, unsigned n_tiles, cudaStream_t stream) {
  constexpr int bytes = n_stages * (R / 8 + N / 8) * n_stream_threads * 16;
  static_assert(bytes <= 99 * 1024 && bytes >= static_cast<int>(max_segments) * N * (R + 4) * 4);
  return launch(stream_kernel<T, Y, R, N, n_stages, Rows>,
                dim3(n_tiles, tiles(Rows::gated ? a.rows / 2 : a.rows, block_rows<Rows, R>::n_out)), n_stream_threads,
                bytes, a, rows, stream);
}

template <class T, class Y, int BM, int BN, int WM, int WN, int n_stages, class Rows>
cudaError_t launch_tile(const matmul_args& a, const Rows& rows, unsigned n_tiles, cudaStream_t stream) {
  constexpr int bytes = n_stages * (BM + BN) * 64 + BM * BN * 4;
  static_assert(bytes >= BN * (BM + 4) * 4);
  return launch(tile_kernel<T, Y, BM, BN, WM, WN, n_stages, Rows>,
                dim3(n_tiles, tiles(Rows::gated ? a.rows / 2 : a.rows, block_rows<Rows, BM>::n_out)),
                BM / WM * (BN / WN) * 32, bytes, a, rows, stream);
}

/// The kernel for n_tiles tiles of up to tile_rows tokens: 8, 16, 32, 64 or 128.
template <class T, class Y, class Rows>
cudaError_t matmul_mma(const matmul_args& a, const Rows& rows, std::uint32_t tile_rows, unsigned n_tiles,
                       cudaStream_t stream) {
  // A queue longer than a segment is room that another block of the processor lacks.
  const bool is_short = segment_columns(a.cols) <= 3 * block_columns;
  if (tile_rows == 8)
    return is_short ? launch_stream<T, Y, 16, 8, 4>(a, rows, n_tiles, stream)
                    : launch_stream<T, Y, 16, 8, 8>(a, rows, n_tiles, stream);
  // Taller blocks read x less often, lower ones fill the card.
  if (tile_rows == 16) {
    if (std::uint64_t{a.rows} * n_tiles > 2048) return launch_stream<T, Y, 32, 16, 4>(a, rows, n_tiles, stream);
    return is_short ? launch_stream<T, Y, 16, 16, 4>(a, rows, n_tiles, stream)
                    : launch_stream<T, Y, 16, 16, 6>(a, rows, n_tiles, stream);
  }
  if (tile_rows == 32) return launch_stream<T, Y, 32, 32, 3>(a, rows, n_tiles, stream);
  if (tile_rows == 64) return launch_tile<T, Y, 64, 64, 32, 32, 10>(a, rows, n_tiles, stream);
  if (tile_rows != 128) return cudaErrorInvalidValue;
  card c;
  if (const cudaError_t code = ask(c)) return code;
  return c.shared_bytes >= 112 * 1024 ? launch_tile<T, Y, 128, 128, 64, 64, 3>(a, rows, n_tiles, stream)
                                      : launch_tile<T, Y, 128, 128, 64, 64, 2>(a, rows, n_tiles, stream);
}

cudaError_t matmul_f32(const matmul_args& a, const auto& rows, std::uint32_t tile_rows, unsigned n_tiles,
                       cudaStream_t stream) {
  using Rows = std::remove_cvref_t<decltype(rows)>;
  const dim3 grid(n_tiles, tiles(a.rows, 64));
  return tile_rows == 8 ? launch(plain_kernel<8, 1, 2, Rows>, grid, 256, 0, a, rows, stream)
                        : launch(plain_kernel<64, 4, 4, Rows>, grid, 256, 0, a, rows, stream);
}

/// Tokens of a tile of a step's product.
cudaError_t tile_rows_of(const matmul_args& a, std::uint32_t max_tokens, std::uint32_t& tile_rows) {
  if (a.type == dtype::f32 || max_tokens <= 32) {
    tile_rows = max_tokens <= 8 ? 8 : a.type == dtype::f32 ? 64 : max_tokens <= 16 ? 16 : 32;
    return cudaSuccess;
  }
  card c;
  if (const cudaError_t code = ask(c)) return code;
  // What takes few processors is bound by how fast one block walks along K, where streams walk eight segments at once.
  const auto fill = [&](std::uint32_t size) { return tiles(a.rows, size) * tiles(max_tokens, size); };
  const auto n_sms = static_cast<unsigned>(c.n_sms);
  tile_rows = 2 * fill(64) < n_sms ? 32 : fill(128) < n_sms ? 64 : 128;
  return cudaSuccess;
}

/// The products of experts' rows, as `rows` has them.
template <class T, class Rows>
cudaError_t launch_experts(const expert_matmul_args& e, const Rows& rows, std::uint32_t max_tokens,
                           cudaStream_t stream) {
  const unsigned n_tiles = expert_tiles(e.routes.n_experts, e.routes.n_used, max_tokens, e.tile_rows);
  if constexpr (std::is_same_v<T, float>)
    return matmul_f32(e.product, rows, e.tile_rows, n_tiles, stream);
  else
    return matmul_mma<T, T>(e.product, rows, e.tile_rows, n_tiles, stream);
}

}  // namespace

cudaError_t matmul(const matmul_args& a, const std::uint32_t* n_tokens, std::uint32_t max_tokens, cudaStream_t stream) {
  if (max_tokens == 0 || a.rows == 0) return cudaSuccess;
  if (a.cols == 0 || (a.type != dtype::f32 && a.cols % 8)) return cudaErrorInvalidValue;
  std::uint32_t tile_rows = 0;
  if (const cudaError_t code = tile_rows_of(a, max_tokens, tile_rows)) return code;
  const unsigned n_tiles = tiles(max_tokens, tile_rows);
  const step_rows rows{n_tokens};
  const auto of_type = [&](auto x) {
    using T = decltype(x);
    if (a.y_type == dtype::f32) return matmul_mma<T, float>(a, rows, tile_rows, n_tiles, stream);
    if (a.y_type == a.type && !a.accumulate) return matmul_mma<T, T>(a, rows, tile_rows, n_tiles, stream);
    return cudaErrorInvalidValue;
  };
  if (a.type == dtype::f16) return of_type(__half{});
  if (a.type == dtype::bf16) return of_type(__nv_bfloat16{});
  if (a.type != dtype::f32 || a.y_type != dtype::f32) return cudaErrorInvalidValue;
  return matmul_f32(a, rows, tile_rows, n_tiles, stream);
}

cudaError_t expert_matmul(const expert_matmul_args& e, std::uint32_t max_tokens, cudaStream_t stream) {
  const matmul_args& a = e.product;
  if (max_tokens == 0 || a.rows == 0) return cudaSuccess;
  if (a.cols == 0 || (a.type != dtype::f32 && a.cols % 8) || a.y_type != a.type || a.accumulate)
    return cudaErrorInvalidValue;
  return with_element(a.type, [&](auto x) { return launch_experts<decltype(x)>(e, rows_of(e), max_tokens, stream); });
}

bool can_gate_experts(const matmul_args& a) {
  return (a.type == dtype::f16 || a.type == dtype::bf16) && a.y_type == a.type && !a.accumulate && a.cols > 0 &&
         a.cols % 8 == 0 && a.rows % 2 == 0;
}

cudaError_t gated_expert_matmul(const expert_matmul_args& e, gate_activation activation, std::uint32_t max_tokens,
                                cudaStream_t stream) {
  if (max_tokens == 0 || e.product.rows == 0) return cudaSuccess;
  if (!can_gate_experts(e.product)) return cudaErrorInvalidValue;
  const gated_expert_rows rows{rows_of(e), activation};
  return with_16_bits(e.product.type, [&](auto x) { return launch_experts<decltype(x)>(e, rows, max_tokens, stream); });
}

}  // namespace troupe::kernels::gpu
