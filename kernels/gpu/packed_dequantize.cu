#include "kernels/gpu/dependent.cuh"
#include "kernels/gpu/element.cuh"
#include "kernels/gpu/packed_layout.hpp"

namespace troupe::kernels::gpu {
namespace {

using namespace packed;

/// A thread makes eight columns of a row; eight threads the 64 columns of a packet, so that a row's stores are 128
/// bytes on end for f16 and bf16. Bytes: the matrix once in, rows * cols * sizeof(T) out.
template <class Form, class T>
__global__ void __launch_bounds__(256) dequantize_kernel(packed_weight w, T* out) {
  constexpr std::uint32_t runs = Form::cols / 8, per_record = runs * tile_rows;
  const std::uint64_t i = blockIdx.x * std::uint64_t{256} + threadIdx.x;
  const std::uint32_t n_records = chunks<Form>(w.cols);
  const std::uint64_t record = i / per_record;
  const std::uint32_t inside = i % per_record, tile = static_cast<std::uint32_t>(record / n_records);
  const std::uint32_t r = inside / 8 % tile_rows, run = inside % 8 + inside / (8 * tile_rows) * 8;
  const std::uint32_t row = tile * tile_rows + r, chunk = static_cast<std::uint32_t>(record % n_records);
  const std::uint32_t col = chunk * Form::cols + 8 * run;
  if (row >= w.rows || col >= w.cols) return;
  const std::byte* data = w.data + record * Form::bytes;
  float scale = 1;
  if constexpr (Form::form == packed_form::f8)
    scale = reinterpret_cast<const float*>(w.data + row_scales_offset(w.rows, w.cols))[row];
  struct alignas(16) eight {
    T v[8];
  } y;
#pragma unroll
  for (std::uint32_t k = 0; k < 8; ++k) {
    const float x = Form::value(data, r, 8 * run + k);
    y.v[k] = element<T>::put(Form::form == packed_form::f8 ? x * scale : x);
  }
  *reinterpret_cast<eight*>(out + std::uint64_t{row} * w.cols + col) = y;
}

}  // namespace

cudaError_t dequantize(const packed_weight& w, void* out, dtype type, cudaStream_t stream) {
  if (w.rows == 0 || w.cols == 0) return cudaSuccess;
  return with_form(w.form, cudaErrorInvalidValue, [&](auto f) {
    using Form = decltype(f);
    const std::uint64_t records = std::uint64_t{tiles(w.rows)} * chunks<Form>(w.cols);
    const std::uint64_t blocks = records * (Form::cols / 8 * tile_rows) / 256;  // 1 or 2 of a record
    return with_element(type, [&](auto x) {
      using T = decltype(x);
      return launch_kernel(dequantize_kernel<Form, T>, static_cast<std::uint32_t>(blocks), 256, 0, stream, w,
                           static_cast<T*>(out));
    });
  });
}

}  // namespace troupe::kernels::gpu
