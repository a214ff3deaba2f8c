#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/common/dtype.hpp"
#include "kernels/cpu/matmul.hpp"

/// How packed matrices lie in memory; private to the matmul sources.
///
/// A tile is 16 rows. Codes of a group of 32 columns are kept as 8 slices of 4 columns; a slice is 64 bytes with the four
/// codes of row r at bytes 4r to 4r+3, so that one broadcast of four activations meets 8 rows in 32 bytes (AVX2) or 16
/// rows in 64 (AVX-512). Codes of fewer than 8 bits are split into planes of slice size, and a plane packs the same byte
/// position of several slices into one byte:
///   nibble plane, 4 x 64 bytes: vector j has slice j in its low and slice j + 4 in its high nibbles
///   pair plane, 2 x 64 bytes: slice j is bits 2 * (j / 2) and up of vector j % 2
///   bit plane, 64 bytes: slice j is bit j
/// A group is its planes (in this order), then its scales. In K-quants eight groups follow one header of f16 scales.
namespace troupe::kernels::cpu {
// Included by sources of every tier: internal linkage keeps each tier's copy to itself.
namespace {

enum class scaling {
  d,               ///< f16 d[16]
  d_m,             ///< f16 d[16], f16 m[16]: value = d * code + m
  f32,             ///< float d[16]
  k_scale_min,     ///< header f16 d[16], dmin[16]; per group u8 scale[16], u8 min[16]: d * scale * code - dmin * min
  k_scales,        ///< header f16 d[16]; per group s8 scale[2][16], one for each half of the group
  k_scales_mins,   ///< header f16 d[16], dmin[16]; per group u8 [2][16]: low nibble scale, high nibble min
};

enum class table { none, iq4, mxfp4 };

/// What a quantized type looks like when packed. Codes are unsigned and mean code - offset, except eight-bit codes,
/// which are signed, and nibbles with a table, which are indices into it.
struct layout {
  int bits;
  int offset;
  scaling scales;
  table values = table::none;

  constexpr bool has_header() const {
    return scales == scaling::k_scale_min || scales == scaling::k_scales || scales == scaling::k_scales_mins;
  }
  /// Two scales per group.
  constexpr bool halves() const { return scales == scaling::k_scales || scales == scaling::k_scales_mins; }
  constexpr bool has_min() const { return scales == scaling::d_m || scales == scaling::k_scale_min; }
  constexpr std::size_t code_bytes() const { return 64u * static_cast<std::size_t>(bits); }
  constexpr std::size_t group_bytes() const {
    return code_bytes() + (scales == scaling::d_m || scales == scaling::f32 ? 64 : 32);
  }
  constexpr std::size_t header_bytes() const {
    return scales == scaling::k_scales ? 32 : has_header() ? 64 : 0;
  }
  constexpr std::uint32_t groups_per_header() const { return has_header() ? 8 : 1; }
  constexpr std::size_t run_bytes() const { return header_bytes() + groups_per_header() * group_bytes(); }
  /// Where the pair and bit planes start in a group.
  constexpr std::size_t pair_plane() const { return bits >= 4 ? 256 : 0; }
  constexpr std::size_t bit_plane() const { return bits == 5 ? 256 : 128; }
  constexpr std::size_t tile_bytes(std::uint32_t cols) const {
    return (cols / (group_size * groups_per_header()) * run_bytes() + 63) / 64 * 64;
  }
};

/// Types whose groups are alike once unpacked (codes in bytes, scales and minima in f32) share the code that meets them.
constexpr layout unpacked(layout l) {
  if (l.bits == 8 || l.values != table::none) return {8, 0, scaling::f32};
  if (l.has_min()) return {l.bits, 0, scaling::d_m};
  return l;
}

/// Whether groups have minima of their own, in f32 and as integers.
template <layout L>
constexpr bool has_mins = L.scales == scaling::k_scales_mins;
template <layout L>
constexpr bool has_minima = L.has_min() || has_mins<L>;

inline constexpr layout no_layout{0, 0, scaling::d};

constexpr layout layout_of(dtype type) {
  switch (type) {
    case dtype::q4_0: return {4, 8, scaling::d};
    case dtype::q4_1: return {4, 0, scaling::d_m};
    case dtype::q5_0: return {5, 16, scaling::d};
    case dtype::q5_1: return {5, 0, scaling::d_m};
    case dtype::q8_0: return {8, 0, scaling::d};
    case dtype::q2_k: return {2, 0, scaling::k_scales_mins};
    case dtype::q3_k: return {3, 4, scaling::k_scales};
    case dtype::q4_k: return {4, 0, scaling::k_scale_min};
    case dtype::q5_k: return {5, 0, scaling::k_scale_min};
    case dtype::q6_k: return {6, 32, scaling::k_scales};
    case dtype::iq4_nl: return {4, 0, scaling::f32, table::iq4};
    case dtype::iq4_xs: return {4, 0, scaling::f32, table::iq4};
    case dtype::mxfp4: return {4, 0, scaling::f32, table::mxfp4};
    default: return no_layout;
  }
}

constexpr bool is_float(dtype type) { return type == dtype::f32 || type == dtype::f16 || type == dtype::bf16; }

/// Unquantized weights: a tile is its columns one after the other, 16 elements each.
constexpr std::size_t tile_bytes(dtype type, std::uint32_t cols) {
  if (is_float(type)) return (std::size_t{cols} * tile_rows * (type == dtype::f32 ? 4 : 2) + 63) / 64 * 64;
  return layout_of(type).tile_bytes(cols);
}

template <layout L>
struct layout_constant {
  static constexpr layout value = L;
};

/// f(layout_constant<L>{}) for the layout of a quantized type; nothing for types without one.
template <class F>
[[gnu::always_inline]] inline void with_layout(dtype type, F&& f) {
  switch (type) {
    case dtype::q4_0: return f(layout_constant<layout_of(dtype::q4_0)>{});
    case dtype::q4_1: return f(layout_constant<layout_of(dtype::q4_1)>{});
    case dtype::q5_0: return f(layout_constant<layout_of(dtype::q5_0)>{});
    case dtype::q5_1: return f(layout_constant<layout_of(dtype::q5_1)>{});
    case dtype::q8_0: return f(layout_constant<layout_of(dtype::q8_0)>{});
    case dtype::q2_k: return f(layout_constant<layout_of(dtype::q2_k)>{});
    case dtype::q3_k: return f(layout_constant<layout_of(dtype::q3_k)>{});
    case dtype::q4_k: return f(layout_constant<layout_of(dtype::q4_k)>{});
    case dtype::q5_k: return f(layout_constant<layout_of(dtype::q5_k)>{});
    case dtype::q6_k: return f(layout_constant<layout_of(dtype::q6_k)>{});
    case dtype::iq4_nl:
    case dtype::iq4_xs: return f(layout_constant<layout_of(dtype::iq4_nl)>{});
    case dtype::mxfp4: return f(layout_constant<layout_of(dtype::mxfp4)>{});
    default: return;
  }
}

/// Where one tile's parts lie.
template <layout L>
struct tile_view {
  const std::byte* base;

  const std::byte* header(std::uint32_t group) const { return base + group / L.groups_per_header() * L.run_bytes(); }
  const std::byte* group(std::uint32_t group) const {
    return header(group) + L.header_bytes() + group % L.groups_per_header() * L.group_bytes();
  }
};

/// f(std::integral_constant<int, 0>{}) ... f(std::integral_constant<int, N - 1>{}).
template <int N, class F>
[[gnu::always_inline]] inline void unroll(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

}  // namespace
}  // namespace troupe::kernels::cpu
