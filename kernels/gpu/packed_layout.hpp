#pragma once
#include <cstring>

#include "kernels/common/block_values.hpp"
#include "kernels/gpu/quant.hpp"

/// Where the codes and scales of a packed matrix lie: arithmetic shared by packing (host), dequantizing and the tests.
///
/// The layout follows mma.sync m16n8k16 with the weights as its 16-row operand: a warp's lane 4 g + t holds rows g and
/// g + 8 of a tile. A tile of 16 rows is a run of chunks of `cols` columns, each one contiguous record; rows and
/// columns are padded with zeros to whole records. In a record the codes come first, in packets of 16 bytes per lane,
/// so that one load of a warp reads 512 bytes on end. Of a group of 32 columns lane t owns columns 8 t to 8 t + 7; of a
/// group of 16 (i6k) columns 4 t to 4 t + 3. As the products of a k-step may be summed in any order, a lane then meets
/// its codes with 16 (8) consecutive bytes of x.
///
/// A word of eight nibbles holds code e at nibble e / 2 + 4 (e % 2): shifts by whole nibbles leave neighbours 2 i and
/// 2 i + 1 in the low nibbles of its two halves, which is where a pair of f16 or bf16 wants them. Every row has bytes
/// of its own, so that ranges of rows may be packed at once.
namespace troupe::kernels::gpu::packed {

inline constexpr std::uint32_t tile_rows = 16;

/// Of a record: row r (0-15) and column c.
struct place {
  std::uint32_t lane4, half;  ///< 4 g and whether the row is g + 8
  TROUPE_HOST_DEVICE constexpr explicit place(std::uint32_t r) : lane4(4 * (r % 8)), half(r / 8) {}
};

TROUPE_HOST_DEVICE constexpr std::uint32_t nibble_of(std::uint32_t e) { return e / 2 + 4 * (e % 2); }

TROUPE_HOST_DEVICE inline std::uint32_t load_u32(const std::byte* p) {
  return *reinterpret_cast<const std::uint32_t*>(p);
}
TROUPE_HOST_DEVICE inline std::uint16_t load_u16(const std::byte* p) {
  return *reinterpret_cast<const std::uint16_t*>(p);
}
TROUPE_HOST_DEVICE inline std::uint8_t load_u8(const std::byte* p) { return *reinterpret_cast<const std::uint8_t*>(p); }

/// Nibbles of 32-column groups (u4, u4k): word of group j at 512 (j / 2) + 16 lane + 8 (j % 2) + 4 half.
TROUPE_HOST_DEVICE constexpr std::uint32_t nibble_word(std::uint32_t r, std::uint32_t c) {
  const place p(r);
  return 512 * (c / 64) + 16 * (p.lane4 + c % 32 / 8) + 8 * (c / 32 % 2) + 4 * p.half;
}

/// Bytes of 32-column groups (i8, f8): 512 j + 16 lane + 8 half + column of the lane.
TROUPE_HOST_DEVICE constexpr std::uint32_t byte_offset(std::uint32_t r, std::uint32_t c) {
  const place p(r);
  return 512 * (c / 32) + 16 * (p.lane4 + c % 32 / 8) + 8 * p.half + c % 8;
}

struct u4 {
  static constexpr packed_form form = packed_form::u4;
  static constexpr std::uint32_t cols = 128, group = 32, bytes = 1280;
  /// Of group j: f16 scale and f16 minimum of rows g, g + 8; lane t holds group t.
  TROUPE_HOST_DEVICE static constexpr std::uint32_t scales(std::uint32_t r, std::uint32_t c) {
    const place p(r);
    return 1024 + 8 * (p.lane4 + c / 32) + 4 * p.half;
  }
  TROUPE_HOST_DEVICE static int code(const std::byte* record, std::uint32_t r, std::uint32_t c) {
    return static_cast<int>((load_u32(record + nibble_word(r, c)) >> (4 * nibble_of(c % 8))) & 15);
  }
  TROUPE_HOST_DEVICE static float value(const std::byte* record, std::uint32_t r, std::uint32_t c) {
    const std::uint32_t s = load_u32(record + scales(r, c));
    return detail::unfused(f16_to_f32(static_cast<f16_bits>(s)), static_cast<float>(code(record, r, c)),
                           f16_to_f32(static_cast<f16_bits>(s >> 16)));
  }
};

struct u4k {
  static constexpr packed_form form = packed_form::u4k;
  static constexpr std::uint32_t cols = 256, group = 32, bytes = 2368;
  /// Of group j: bytes scale and minimum of row g, then of row g + 8; lane t holds groups 2 t and 2 t + 1.
  TROUPE_HOST_DEVICE static constexpr std::uint32_t scales(std::uint32_t r, std::uint32_t c) {
    const place p(r);
    return 2048 + 8 * (p.lane4 + c / 64) + 4 * (c / 32 % 2) + 2 * p.half;
  }
  /// f16 d and dmin.
  TROUPE_HOST_DEVICE static constexpr std::uint32_t super(std::uint32_t r) {
    const place p(r);
    return 2304 + 2 * p.lane4 + 4 * p.half;
  }
  TROUPE_HOST_DEVICE static int code(const std::byte* record, std::uint32_t r, std::uint32_t c) {
    return u4::code(record, r, c);
  }
  TROUPE_HOST_DEVICE static float value(const std::byte* record, std::uint32_t r, std::uint32_t c) {
    const std::uint32_t d = load_u32(record + super(r));
    const std::uint16_t s = load_u16(record + scales(r, c));
    const float scale = f16_to_f32(static_cast<f16_bits>(d)) * static_cast<float>(s & 255);
    const float min = f16_to_f32(static_cast<f16_bits>(d >> 16)) * static_cast<float>(s >> 8);
    return detail::unfused(scale, static_cast<float>(code(record, r, c)), -min);
  }
};

struct i8 {
  static constexpr packed_form form = packed_form::i8;
  static constexpr std::uint32_t cols = 128, group = 32, bytes = 2176;
  /// Of group j: f16 of rows g, g + 8; lane t holds group t. Codes are stored plus 128.
  TROUPE_HOST_DEVICE static constexpr std::uint32_t scales(std::uint32_t r, std::uint32_t c) {
    const place p(r);
    return 2048 + 4 * (p.lane4 + c / 32) + 2 * p.half;
  }
  TROUPE_HOST_DEVICE static int code(const std::byte* record, std::uint32_t r, std::uint32_t c) {
    return static_cast<int>(load_u8(record + byte_offset(r, c))) - 128;
  }
  TROUPE_HOST_DEVICE static float value(const std::byte* record, std::uint32_t r, std::uint32_t c) {
    return f16_to_f32(load_u16(record + scales(r, c))) * static_cast<float>(code(record, r, c));
  }
};

struct i6k {
  static constexpr packed_form form = packed_form::i6k;
  static constexpr std::uint32_t cols = 256, group = 16, bytes = 3360;
  /// Low nibbles: a word per row and pair of groups, code e = 4 (group % 2) + column of the lane.
  TROUPE_HOST_DEVICE static constexpr std::uint32_t low(std::uint32_t r, std::uint32_t c) {
    const place p(r);
    return 512 * (c / 64) + 16 * (p.lane4 + c % 16 / 4) + 8 * (c / 32 % 2) + 4 * p.half;
  }
  TROUPE_HOST_DEVICE static constexpr std::uint32_t low_shift(std::uint32_t c) {
    return 4 * nibble_of(4 * (c / 16 % 2) + c % 4);
  }
  /// Upper two bits: a word per row and four groups; pair 2 (group % 4) + (column of the lane) / 2 at its place in both
  /// halves.
  TROUPE_HOST_DEVICE static constexpr std::uint32_t high(std::uint32_t r, std::uint32_t c) {
    const place p(r);
    return 2048 + 512 * (c / 128) + 16 * (p.lane4 + c % 16 / 4) + 8 * (c / 64 % 2) + 4 * p.half;
  }
  TROUPE_HOST_DEVICE static constexpr std::uint32_t high_shift(std::uint32_t c) {
    return 2 * (2 * (c / 16 % 4) + c % 4 / 2) + 16 * (c % 2);
  }
  /// The scale of a group, plus 128; lane t holds groups 4 t to 4 t + 3, row g before row g + 8.
  TROUPE_HOST_DEVICE static constexpr std::uint32_t scales(std::uint32_t r, std::uint32_t c) {
    const place p(r);
    return 3072 + 8 * (p.lane4 + c / 64) + 4 * p.half + c / 16 % 4;
  }
  TROUPE_HOST_DEVICE static constexpr std::uint32_t super(std::uint32_t r) {
    const place p(r);
    return 3328 + p.lane4 + 2 * p.half;
  }
  TROUPE_HOST_DEVICE static int code(const std::byte* record, std::uint32_t r, std::uint32_t c) {
    const std::uint32_t l = (load_u32(record + low(r, c)) >> low_shift(c)) & 15;
    const std::uint32_t h = (load_u32(record + high(r, c)) >> high_shift(c)) & 3;
    return static_cast<int>(l | (h << 4)) - 32;
  }
  TROUPE_HOST_DEVICE static float value(const std::byte* record, std::uint32_t r, std::uint32_t c) {
    const int scale = static_cast<int>(load_u8(record + scales(r, c))) - 128;
    return f16_to_f32(load_u16(record + super(r))) * static_cast<float>(scale) * static_cast<float>(code(record, r, c));
  }
};

/// Its scale belongs to the row: [padded rows] f32 behind all records.
struct f8 {
  static constexpr packed_form form = packed_form::f8;
  static constexpr std::uint32_t cols = 128, group = 32, bytes = 2048;
  TROUPE_HOST_DEVICE static float value(const std::byte* record, std::uint32_t r, std::uint32_t c) {
    return e4m3_to_f32(load_u8(record + byte_offset(r, c)));
  }
};

TROUPE_HOST_DEVICE constexpr std::uint32_t tiles(std::uint32_t rows) { return (rows + tile_rows - 1) / tile_rows; }
template <class Form>
TROUPE_HOST_DEVICE constexpr std::uint32_t chunks(std::uint32_t cols) {
  return (cols + Form::cols - 1) / Form::cols;
}
template <class Form>
TROUPE_HOST_DEVICE constexpr std::uint64_t record_offset(std::uint32_t tile, std::uint32_t chunk, std::uint32_t cols) {
  return (std::uint64_t{tile} * chunks<Form>(cols) + chunk) * Form::bytes;
}
/// Of f8's row scales.
TROUPE_HOST_DEVICE constexpr std::uint64_t row_scales_offset(std::uint32_t rows, std::uint32_t cols) {
  return record_offset<f8>(tiles(rows), 0, cols);
}

/// The weight at (row, col), exactly as the format defines it.
template <class Form>
TROUPE_HOST_DEVICE float weight_at(const packed_weight& w, std::uint32_t row, std::uint32_t col) {
  const std::byte* record = w.data + record_offset<Form>(row / tile_rows, col / Form::cols, w.cols);
  const float x = Form::value(record, row % tile_rows, col % Form::cols);
  if constexpr (Form::form == packed_form::f8)
    return x * *reinterpret_cast<const float*>(w.data + row_scales_offset(w.rows, w.cols) + std::uint64_t{row} * 4);
  else
    return x;
}

/// f(Form{}); `otherwise` for none.
template <class Result, class F>
Result with_form(packed_form form, Result otherwise, F&& f) {
  switch (form) {
    case packed_form::u4:
      return f(u4{});
    case packed_form::u4k:
      return f(u4k{});
    case packed_form::i8:
      return f(i8{});
    case packed_form::i6k:
      return f(i6k{});
    case packed_form::f8:
      return f(f8{});
    case packed_form::none:
      break;
  }
  return otherwise;
}

}  // namespace troupe::kernels::gpu::packed
