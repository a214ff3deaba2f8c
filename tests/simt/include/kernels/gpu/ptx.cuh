#pragma once
#include <cuda_runtime.h>

#include <chrono>
#include <cstdint>

#include "simt/tensor.hpp"

/// What stands in the place of the instructions of kernels/gpu/ptx.cuh, which says what each is; this file comes first
/// on the include path of tests/simt. Approximations are exact here.
namespace troupe::kernels::gpu::ptx {

template <class T, int Alignment = alignof(T)>
T* dynamic_shared() {
  static_assert(Alignment <= 1024);
  return static_cast<T*>(simt::dynamic_shared_memory());
}

inline std::uint32_t shared_address(const void* p) { return simt::shared_address(p); }
inline void cp_async_16(std::uint32_t to, const void* from, int bytes) {
  simt::copy_later(to, from, static_cast<std::size_t>(bytes), 16);
}
inline void cp_async_4(std::uint32_t to, const void* from, int bytes) {
  simt::copy_later(to, from, static_cast<std::size_t>(bytes), 4);
}
inline void cp_async_commit_group() { simt::end_copy_group(); }
template <int Pending>
void cp_async_wait_group() {
  simt::await_copy_groups(Pending);
}

/// A vector's load, which hardware wants aligned to its size.
template <class T>
T load_aligned(const void* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % sizeof(T) != 0) simt::fault("a load is not aligned to its size");
  return *static_cast<const T*>(p);
}
inline uint4 load_volatile_16(const void* p) { return load_aligned<uint4>(p); }
inline uint4 load_nc_no_allocate_16(const void* p) { return load_aligned<uint4>(p); }
inline uint2 load_nc_no_allocate_8(const void* p) { return load_aligned<uint2>(p); }
inline std::uint32_t load_nc_no_allocate_4(const void* p) { return load_aligned<std::uint32_t>(p); }
inline uint4 load_nc_if_16(const void* p, bool there) { return there ? load_aligned<uint4>(p) : uint4{0, 0, 0, 0}; }
inline uint2 load_nc_if_8(const void* p, bool there) { return there ? load_aligned<uint2>(p) : uint2{0, 0}; }

inline void store_relaxed_sys(std::uint64_t* p, std::uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
inline void store_relaxed_sys(std::uint64_t* p, std::uint64_t v, std::uint64_t w) {
  store_relaxed_sys(p, v);
  store_relaxed_sys(p + 1, w);
}
// Whoever loads like this waits for others.
inline std::uint64_t load_relaxed_sys(const std::uint64_t* p) {
  simt::pause();
  return __atomic_load_n(p, __ATOMIC_RELAXED);
}
inline void load_relaxed_sys(const std::uint64_t* p, std::uint64_t& v, std::uint64_t& w) {
  v = load_relaxed_sys(p);
  w = __atomic_load_n(p + 1, __ATOMIC_RELAXED);
}
inline std::uint32_t load_relaxed_sys(const std::uint32_t* p) {
  simt::pause();
  return __atomic_load_n(p, __ATOMIC_RELAXED);
}

inline void mma_f16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  simt::multiply(c, a, b0, b1, simt::multiply_f16);
}
inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  simt::multiply(c, a, b0, b1, simt::multiply_bf16);
}
inline void ldmatrix_x4(std::uint32_t (&r)[4], std::uint32_t address) {
  simt::meet_warp("ldmatrix", 0xffffffffu, simt::load_matrices<4, false>, &address, r);
}
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], std::uint32_t address) {
  simt::meet_warp("ldmatrix", 0xffffffffu, simt::load_matrices<4, true>, &address, r);
}
inline void ldmatrix_x2_trans(std::uint32_t (&r)[2], std::uint32_t address) {
  simt::meet_warp("ldmatrix", 0xffffffffu, simt::load_matrices<2, true>, &address, r);
}

template <int Table>
std::uint32_t lop3(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t d = 0;
  for (unsigned i = 0; i < 8; ++i)
    if (Table >> i & 1) d |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return d;
}
inline float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }
inline float ex2_approx_ftz(float x) { return flushed(exp2f(flushed(x))); }
inline float rcp_approx_ftz(float x) { return flushed(1.0f / flushed(x)); }

inline void griddepcontrol_launch_dependents() {}
inline void griddepcontrol_wait() {}
inline std::uint64_t globaltimer() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

}  // namespace troupe::kernels::gpu::ptx
