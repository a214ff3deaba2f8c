#pragma once
#include <type_traits>

#include "simt/block.hpp"

/// Operations of a block or a warp.

inline void __syncthreads() { simt::meet_block(simt::vote::none, false); }
inline int __syncthreads_or(int mine) { return simt::meet_block(simt::vote::any, mine != 0); }
inline int __syncthreads_and(int mine) { return simt::meet_block(simt::vote::all, mine != 0); }

namespace simt {

/// f(lane) for those of the mask.
template <class F>
void for_lanes(std::uint32_t lanes, F&& f) {
  for (; lanes != 0; lanes &= lanes - 1) f(static_cast<unsigned>(__builtin_ctz(lanes)));
}

template <class T>
struct shuffled {
  T value;
  int from;  ///< the lane, or beyond the ends: the own one
};
/// A lane that reads one which has ended, or which does not take part, gets its own value: on a card it may be
/// anything.
template <class T>
T shuffle(const char* name, std::uint32_t mask, const T& value, int from) {
  static_assert(std::is_trivially_copyable_v<T>);
  const shuffled<T> mine{value, from};
  T out;
  meet_warp(
      name, mask,
      [](std::uint32_t lanes, lane_part(&parts)[32]) {
        for_lanes(lanes, [&](unsigned lane) {
          const auto* own = static_cast<const shuffled<T>*>(parts[lane].in);
          const unsigned source = static_cast<unsigned>(own->from);
          const bool there = source < 32 && (lanes >> source & 1);
          *static_cast<T*>(parts[lane].out) =
              there ? static_cast<const shuffled<T>*>(parts[source].in)->value : own->value;
        });
      },
      &mine, &out);
  return out;
}

/// Fold is a default-constructible function of two values.
template <class T, class Fold>
T reduce(const char* name, std::uint32_t mask, const T& mine, Fold) {
  T out;
  meet_warp(
      name, mask,
      [](std::uint32_t lanes, lane_part(&parts)[32]) {
        bool first = true;
        T all{};
        for_lanes(lanes, [&](unsigned lane) {
          const T x = *static_cast<const T*>(parts[lane].in);
          all = first ? x : Fold{}(all, x);
          first = false;
        });
        for_lanes(lanes, [&](unsigned lane) { *static_cast<T*>(parts[lane].out) = all; });
      },
      &mine, &out);
  return out;
}

inline int lane();  ///< of the current thread

}  // namespace simt

#include "simt/device.hpp"

inline int simt::lane() {
  return static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
}

inline void __syncwarp(std::uint32_t mask = 0xffffffffu) {
  simt::meet_warp(
      "__syncwarp", mask, [](std::uint32_t, simt::lane_part(&)[32]) {}, nullptr, nullptr);
}
template <class T>
T __shfl_sync(std::uint32_t mask, T x, int from, int width = 32) {
  return simt::shuffle("__shfl_sync", mask, x, simt::lane() / width * width + from % width);
}
template <class T>
T __shfl_xor_sync(std::uint32_t mask, T x, int other) {
  return simt::shuffle("__shfl_xor_sync", mask, x, simt::lane() ^ other);
}
template <class T>
T __shfl_up_sync(std::uint32_t mask, T x, unsigned distance) {
  const int from = simt::lane() - static_cast<int>(distance);
  return simt::shuffle("__shfl_up_sync", mask, x, from < 0 ? simt::lane() : from);
}
template <class T>
T __shfl_down_sync(std::uint32_t mask, T x, unsigned distance) {
  const int from = simt::lane() + static_cast<int>(distance);
  return simt::shuffle("__shfl_down_sync", mask, x, from > 31 ? simt::lane() : from);
}

struct simt_or {
  template <class T>
  T operator()(T a, T b) const {
    return a | b;
  }
};
struct simt_and {
  template <class T>
  T operator()(T a, T b) const {
    return a & b;
  }
};
struct simt_add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct simt_min {
  template <class T>
  T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
struct simt_max {
  template <class T>
  T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
inline int __any_sync(std::uint32_t mask, int mine) {
  return simt::reduce("__any_sync", mask, int{mine != 0}, simt_or{});
}
inline int __all_sync(std::uint32_t mask, int mine) {
  return simt::reduce("__all_sync", mask, int{mine != 0}, simt_and{});
}
inline std::uint32_t __ballot_sync(std::uint32_t mask, int mine) {
  return simt::reduce("__ballot_sync", mask, mine ? 1u << simt::lane() : 0u, simt_or{});
}
template <class T>
T __reduce_min_sync(std::uint32_t mask, T x) {
  return simt::reduce("__reduce_min_sync", mask, x, simt_min{});
}
template <class T>
T __reduce_max_sync(std::uint32_t mask, T x) {
  return simt::reduce("__reduce_max_sync", mask, x, simt_max{});
}
template <class T>
T __reduce_add_sync(std::uint32_t mask, T x) {
  return simt::reduce("__reduce_add_sync", mask, x, simt_add{});
}
