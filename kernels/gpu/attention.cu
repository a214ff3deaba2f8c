#include "kernels/gpu/attention.hpp"

namespace troupe::kernels::gpu {

// One translation unit each: they take long to compile.
cudaError_t attention_f16(const attention_args&, cudaStream_t);
cudaError_t attention_bf16(const attention_args&, cudaStream_t);
cudaError_t attention_f16_e4m3(const attention_args&, cudaStream_t);
cudaError_t attention_bf16_e4m3(const attention_args&, cudaStream_t);
cudaError_t attention_plain(const attention_args&, cudaStream_t);

cudaError_t attention(const attention_args& a, cudaStream_t stream) {
  const attention_shape& s = a.shape;
  if (s.n_kv_heads == 0 || s.n_heads % s.n_kv_heads != 0 || s.n_sms == 0 || s.head_dim == 0 || s.head_dim % 8 != 0 ||
      s.head_dim > 256 || a.kv.head_dim != s.head_dim || a.kv.n_kv_heads != s.n_kv_heads)
    return cudaErrorInvalidValue;
  const bool has_tile = s.head_dim == 64 || s.head_dim == 96 || s.head_dim == 128 || s.head_dim == 256;
  if (has_tile && a.ld_q % 8 == 0) {
    if (a.type == dtype::f16 && a.kv.type == kv_type::f16) return attention_f16(a, stream);
    if (a.type == dtype::f16 && a.kv.type == kv_type::e4m3) return attention_f16_e4m3(a, stream);
    if (a.type == dtype::bf16 && a.kv.type == kv_type::bf16) return attention_bf16(a, stream);
    if (a.type == dtype::bf16 && a.kv.type == kv_type::e4m3) return attention_bf16_e4m3(a, stream);
  }
  return attention_plain(a, stream);
}

}  // namespace troupe::kernels::gpu
