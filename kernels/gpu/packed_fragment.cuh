#pragma once
#include "kernels/gpu/fragments.cuh"
#include "kernels/gpu/packed_codes.cuh"
#include "kernels/gpu/packed_layout.hpp"

/// What a warp does with one record of packed weights: load() puts its part of the record into registers, multiply()
/// adds the products with x to acc, one sum per row and token. Integers meet x in the tensor core; scales meet their
/// sums in f32. Lane 4 g + t as in packed_layout.hpp.
namespace troupe::kernels::gpu::packed {

/// The x of 8 n_tiles tokens: lane 4 g + t reads token g of each eight. Zero beyond the tokens and the columns.
template <class T, int n_tiles>
struct token_source {
  const T* row[n_tiles];  ///< null: no such token
  std::uint32_t cols;

  __device__ uint4 eight(int tile, std::uint32_t column) const {
    return load_if16(row[tile] + column, row[tile] != nullptr && column < cols);
  }
  __device__ uint2 four(int tile, std::uint32_t column) const {
    return load_if8(row[tile] + column, row[tile] != nullptr && column < cols);
  }
};

template <int n_tiles>
using sums = float[n_tiles][4];

/// The words of row g and of row g + 8 out of a packet that holds two groups.
__device__ inline std::uint32_t upper_row(const uint4& packet, int j) { return j % 2 == 0 ? packet.x : packet.z; }
__device__ inline std::uint32_t lower_row(const uint4& packet, int j) { return j % 2 == 0 ? packet.y : packet.w; }

/// Operands of the two k-steps of a group of 32 columns, out of nibbles.
template <class T>
__device__ void nibble_operands(const uint4& packet, int j, std::uint32_t (&a)[2][4]) {
  std::uint32_t upper[4], lower[4];
  codes<T>::nibbles(upper_row(packet, j), upper);
  codes<T>::nibbles(lower_row(packet, j), lower);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    a[k][0] = upper[2 * k];
    a[k][1] = lower[2 * k];
    a[k][2] = upper[2 * k + 1];
    a[k][3] = lower[2 * k + 1];
  }
}

/// Two k-steps from zero.
template <class T>
__device__ void group_product(const std::uint32_t (&a)[2][4], const uint4& x, float (&c)[4]) {
  c[0] = c[1] = c[2] = c[3] = 0;
  mma<T>(c, a[0], x.x, x.y);
  mma<T>(c, a[1], x.z, x.w);
}

/// Sums of x over a group, laid out as the products are.
template <class T>
__device__ void group_sum(const uint4& x, float (&c)[4]) {
  const std::uint32_t one = codes<T>::one, a[2][4] = {{one, one, one, one}, {one, one, one, one}};
  group_product<T>(a, x, c);
}

/// acc += s c with the factors of row g and of row g + 8.
__device__ inline void add_scaled(float (&acc)[4], const float (&c)[4], float upper, float lower) {
  acc[0] = fmaf(upper, c[0], acc[0]);
  acc[1] = fmaf(upper, c[1], acc[1]);
  acc[2] = fmaf(lower, c[2], acc[2]);
  acc[3] = fmaf(lower, c[3], acc[3]);
}

template <class Form>
struct fragment;

template <>
struct fragment<u4> {
  static constexpr int in_flight = 2;  ///< records that a warp loads before it uses the first
  uint4 packets[2];
  uint2 scales;

  __device__ void load(const std::byte* record, std::uint32_t lane) {
#pragma unroll
    for (int p = 0; p < 2; ++p) packets[p] = stream16(record + 512 * p + 16 * lane);
    scales = stream8(record + 1024 + 8 * lane);
  }
  template <class T, int n_tiles>
  __device__ void multiply(const token_source<T, n_tiles>& x, std::uint32_t column, std::uint32_t lane,
                           sums<n_tiles>& acc) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t a[2][4];
      nibble_operands<T>(packets[j / 2], j, a);
      const std::uint32_t holder = (lane & ~3u) + j;
      const std::uint32_t upper = __shfl_sync(0xffffffffu, scales.x, holder);
      const std::uint32_t lower = __shfl_sync(0xffffffffu, scales.y, holder);
#pragma unroll
      for (int n = 0; n < n_tiles; ++n) {
        const uint4 v = x.eight(n, column + 32 * j + 8 * (lane % 4));
        float c[4], sum[4];
        group_product<T>(a, v, c);
        group_sum<T>(v, sum);
        add_scaled(acc[n], c, low_f16(upper), low_f16(lower));
        add_scaled(acc[n], sum, high_f16(upper), high_f16(lower));
      }
    }
  }
};

template <>
struct fragment<u4k> {
  static constexpr int in_flight = 1;
  uint4 packets[4];
  uint2 scales, super;

  __device__ void load(const std::byte* record, std::uint32_t lane) {
#pragma unroll
    for (int p = 0; p < 4; ++p) packets[p] = stream16(record + 512 * p + 16 * lane);
    scales = stream8(record + 2048 + 8 * lane);
    super = stream8(record + 2304 + 8 * (lane / 4));
  }
  template <class T, int n_tiles>
  __device__ void multiply(const token_source<T, n_tiles>& x, std::uint32_t column, std::uint32_t lane,
                           sums<n_tiles>& acc) const {
    sums<n_tiles> inner = {}, mins = {};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      std::uint32_t a[2][4];
      nibble_operands<T>(packets[j / 2], j, a);
      const std::uint32_t s = __shfl_sync(0xffffffffu, j % 2 == 0 ? scales.x : scales.y, (lane & ~3u) + j / 2);
#pragma unroll
      for (int n = 0; n < n_tiles; ++n) {
        const uint4 v = x.eight(n, column + 32 * j + 8 * (lane % 4));
        float c[4], sum[4];
        group_product<T>(a, v, c);
        group_sum<T>(v, sum);
        add_scaled(inner[n], c, byte_f32(s, 0, 0), byte_f32(s, 2, 0));
        add_scaled(mins[n], sum, byte_f32(s, 1, 0), byte_f32(s, 3, 0));
      }
    }
#pragma unroll
    for (int n = 0; n < n_tiles; ++n) {
      add_scaled(acc[n], inner[n], low_f16(super.x), low_f16(super.y));
      add_scaled(acc[n], mins[n], -high_f16(super.x), -high_f16(super.y));
    }
  }
};

/// Operands of the two k-steps of a group of 32 columns, out of bytes by `pair`.
template <class Pair>
__device__ void byte_operands(const uint4& packet, std::uint32_t (&a)[2][4], Pair&& pair) {
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const std::uint32_t upper = k == 0 ? packet.x : packet.y, lower = k == 0 ? packet.z : packet.w;
    a[k][0] = pair(upper, 0);
    a[k][1] = pair(lower, 0);
    a[k][2] = pair(upper, 1);
    a[k][3] = pair(lower, 1);
  }
}

template <>
struct fragment<i8> {
  static constexpr int in_flight = 1;
  uint4 packets[4];
  std::uint32_t scales;

  __device__ void load(const std::byte* record, std::uint32_t lane) {
#pragma unroll
    for (int p = 0; p < 4; ++p) packets[p] = stream16(record + 512 * p + 16 * lane);
    scales = stream4(record + 2048 + 4 * lane);
  }
  template <class T, int n_tiles>
  __device__ void multiply(const token_source<T, n_tiles>& x, std::uint32_t column, std::uint32_t lane,
                           sums<n_tiles>& acc) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t a[2][4];
      byte_operands(packets[j], a, [](std::uint32_t w, int i) { return codes<T>::bytes(w, i); });
      const std::uint32_t s = __shfl_sync(0xffffffffu, scales, (lane & ~3u) + j);
#pragma unroll
      for (int n = 0; n < n_tiles; ++n) {
        float c[4];
        group_product<T>(a, x.eight(n, column + 32 * j + 8 * (lane % 4)), c);
        add_scaled(acc[n], c, low_f16(s), high_f16(s));
      }
    }
  }
};

template <>
struct fragment<f8> {
  static constexpr int in_flight = 1;
  uint4 packets[4];

  __device__ void load(const std::byte* record, std::uint32_t lane) {
#pragma unroll
    for (int p = 0; p < 4; ++p) packets[p] = stream16(record + 512 * p + 16 * lane);
  }
  /// acc lacks codes<T>::e4m3_factor and the row's scale.
  template <class T, int n_tiles>
  __device__ void multiply(const token_source<T, n_tiles>& x, std::uint32_t column, std::uint32_t lane,
                           sums<n_tiles>& acc) const {
    sums<n_tiles> inner = {};  // short chains in the tensor core, whose sums are cut off rather than rounded
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t a[2][4];
      byte_operands(packets[j], a, [](std::uint32_t w, int i) { return codes<T>::e4m3(w, i); });
#pragma unroll
      for (int n = 0; n < n_tiles; ++n) {
        const uint4 v = x.eight(n, column + 32 * j + 8 * (lane % 4));
        mma<T>(inner[n], a[0], v.x, v.y);
        mma<T>(inner[n], a[1], v.z, v.w);
      }
    }
#pragma unroll
    for (int n = 0; n < n_tiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[n][i] += inner[n][i];
  }
};

template <>
struct fragment<i6k> {
  static constexpr int in_flight = 1;
  uint4 low[4], high[2];
  uint2 scales;
  std::uint32_t super;

  __device__ void load(const std::byte* record, std::uint32_t lane) {
#pragma unroll
    for (int p = 0; p < 4; ++p) low[p] = stream16(record + 512 * p + 16 * lane);
#pragma unroll
    for (int p = 0; p < 2; ++p) high[p] = stream16(record + 2048 + 512 * p + 16 * lane);
    scales = stream8(record + 3072 + 8 * lane);
    super = stream4(record + 3328 + 4 * (lane / 4));
  }
  /// Pair `i` (0-3) of a word of nibbles and pair `h` (0-7) of a word of upper bits.
  template <class T>
  __device__ static std::uint32_t pair(std::uint32_t nibbles, std::uint32_t bits, int i, int h) {
    return codes<T>::six_bits(nibbles >> (4 * i), h < 2 ? bits << (4 - 2 * h) : bits >> (2 * h - 4));
  }
  template <class T, int n_tiles>
  __device__ void multiply(const token_source<T, n_tiles>& x, std::uint32_t column, std::uint32_t lane,
                           sums<n_tiles>& acc) const {
    sums<n_tiles> inner = {};
#pragma unroll
    for (int q = 0; q < 4; ++q) {  // 64 columns: one lane's scales, one word of upper bits per row
      const std::uint32_t upper_scales = __shfl_sync(0xffffffffu, scales.x, (lane & ~3u) + q);
      const std::uint32_t lower_scales = __shfl_sync(0xffffffffu, scales.y, (lane & ~3u) + q);
      const std::uint32_t upper_bits = upper_row(high[q / 2], q), lower_bits = lower_row(high[q / 2], q);
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        const std::uint32_t upper = upper_row(low[q], s / 2), lower = lower_row(low[q], s / 2);
        const int i = 2 * (s % 2), h = 2 * s;
        const std::uint32_t a[4] = {pair<T>(upper, upper_bits, i, h), pair<T>(lower, lower_bits, i, h),
                                    pair<T>(upper, upper_bits, i + 1, h + 1), pair<T>(lower, lower_bits, i + 1, h + 1)};
#pragma unroll
        for (int n = 0; n < n_tiles; ++n) {
          const uint2 v = x.four(n, column + 64 * q + 16 * s + 4 * (lane % 4));
          float c[4] = {0, 0, 0, 0};
          mma<T>(c, a, v.x, v.y);
          add_scaled(inner[n], c, byte_f32(upper_scales, s, 128), byte_f32(lower_scales, s, 128));
        }
      }
    }
#pragma unroll
    for (int n = 0; n < n_tiles; ++n) add_scaled(acc[n], inner[n], low_f16(super), high_f16(super));
  }
};

}  // namespace troupe::kernels::gpu::packed
