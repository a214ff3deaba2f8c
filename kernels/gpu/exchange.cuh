#pragma once
#include "kernels/gpu/exchange.hpp"
#include "kernels/gpu/ptx.cuh"

/// The two ends of an exchange on the card.
namespace troupe::kernels::gpu {

/// Where the parts of one exchange go and come from.
class exchange_end {
 public:
  /// Reads *run: only when kernels before are done.
  __device__ explicit exchange_end(const exchange_call& c) : memory_(c.memory) {
    const std::uint64_t number = *c.run * c.per_run + c.index;
    number_ = static_cast<std::uint32_t>(number);
    half_ = static_cast<std::uint32_t>(number % 2) * c.memory.size;
  }

  /// Element i of this rank's part, to rank q.
  __device__ void send(std::uint32_t q, std::uint32_t i, float x) const {
    ptx::store_relaxed_sys(place(q, memory_.rank, i), word(x));
  }
  /// Elements i and i + 1, i even.
  __device__ void send(std::uint32_t q, std::uint32_t i, float x, float y) const {
    ptx::store_relaxed_sys(place(q, memory_.rank, i), word(x), word(y));
  }
  /// Element i of rank q's part; waits for it.
  __device__ float receive(std::uint32_t q, std::uint32_t i) const {
    const std::uint64_t* from = place(memory_.rank, q, i);
    std::uint64_t w;
    do {
      w = ptx::load_relaxed_sys(from);
    } while (!here(w) && patient());
    return value(w);
  }
  /// Elements i and i + 1, i even.
  __device__ float2 receive2(std::uint32_t q, std::uint32_t i) const {
    const std::uint64_t* from = place(memory_.rank, q, i);
    std::uint64_t w, v;
    do {
      ptx::load_relaxed_sys(from, w, v);
    } while (!(here(w) && here(v)) && patient());
    return {value(w), value(v)};
  }

 private:
  __device__ std::uint64_t* place(std::uint32_t to, std::uint32_t from, std::uint32_t i) const {
    return memory_.inbox[to] + std::uint64_t{half_ + from} * memory_.capacity + i / 4 * 2 + i % 2 +
           (i % 4 < 2 ? 0 : memory_.capacity / 2);
  }
  __device__ std::uint64_t word(float x) const { return std::uint64_t{number_} << 32 | __float_as_uint(x); }
  __device__ bool here(std::uint64_t w) const { return static_cast<std::uint32_t>(w >> 32) == number_; }
  __device__ static float value(std::uint64_t w) { return __uint_as_float(static_cast<std::uint32_t>(w)); }
  /// False once the group was given up; looked up now and then, for it is a trip to the host.
  __device__ bool patient() const {
    if (++looks_ % 1024 != 0) return true;
    return ptx::load_relaxed_sys(memory_.given_up) == 0;
  }

  const exchange_memory& memory_;
  std::uint32_t number_, half_;
  mutable std::uint32_t looks_ = 0;
};

}  // namespace troupe::kernels::gpu
