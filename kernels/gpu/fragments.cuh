#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

/// Tensor core products over 16-byte pieces, and the asynchronous copies that bring them.
///
/// A lane with g = lane / 4 and t = lane % 4 holds columns 8 t .. 8 t + 7 of row g of a block of 32 columns: one 16-byte
/// load per 8 rows. Two m16n8k16 products use such pieces up, elements 0..3 in the first (its k positions 2t, 2t+1,
/// 2t+8, 2t+9) and 4..7 in the second. Weights and tokens are permuted alike, so the sums are those of the plain order;
/// but every kernel that promises equal bits has to use this one.
namespace troupe::kernels::gpu {

/// Sixteen bytes from global to shared memory; zeros, and no read, where not `valid`. The rest of the 128-byte line is
/// asked into the L2 cache, since a neighbouring block of columns will want it.
__device__ inline void copy_async(void* shared, const void* global, bool valid) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Until at most `pending` of this thread's committed groups are under way.
template <int pending>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

template <class T>
__device__ void mma_m16n8k16(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                             unsigned b1);
template <>
__device__ inline void mma_m16n8k16<__half>(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                            unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
template <>
__device__ inline void mma_m16n8k16<__nv_bfloat16>(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                                   unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// c += W X^T for 16 weight rows (`low`: rows 0..7, `high`: 8..15), 8 tokens, 32 columns. c[0], c[1]: row g, tokens 2t
/// and 2t + 1; c[2], c[3]: row g + 8.
template <class T>
__device__ void multiply_block(float (&c)[4], const uint4& low, const uint4& high, const uint4& tokens) {
  mma_m16n8k16<T>(c, low.x, high.x, low.y, high.y, tokens.x, tokens.y);
  mma_m16n8k16<T>(c, low.z, high.z, low.w, high.w, tokens.z, tokens.w);
}

}  // namespace troupe::kernels::gpu
