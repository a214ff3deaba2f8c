#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gpu/element.cuh"
#include "kernels/gpu/packed_layout.hpp"

// Host code: matrices into the records of packed_layout.hpp.
namespace troupe::kernels::gpu {
namespace {

using namespace packed;

/// Of one row, the columns of one record: codes as the form stores them (u4 0-15, i8 and i6k plus an offset, f8 bits)
/// and the scales of its groups as stored. What lies beyond the matrix stays zero in value.
struct row_piece {
  std::uint8_t codes[256];
  f16_bits scale[4], min[4];                     // u4, i8
  std::uint8_t small_scales[16], small_mins[8];  // u4k, i6k
  f16_bits d, dmin;
};

template <class Form>
constexpr std::uint8_t zero_code = Form::form == packed_form::i8    ? 128
                                   : Form::form == packed_form::i6k ? 32
                                                                    : 0;

template <class Form>
row_piece empty_piece() {
  row_piece p = {};
  std::memset(p.codes, zero_code<Form>, sizeof p.codes);
  std::memset(p.small_scales, Form::form == packed_form::i6k ? 128 : 0, sizeof p.small_scales);
  return p;
}

void store_u32(std::byte* p, std::uint32_t x) { std::memcpy(p, &x, 4); }
void store_u16(std::byte* p, std::uint16_t x) { std::memcpy(p, &x, 2); }

void store_nibbles(std::byte* record, std::uint32_t r, const std::uint8_t* codes, std::uint32_t cols) {
  for (std::uint32_t c = 0; c < cols; c += 8) {
    std::uint32_t word = 0;
    for (std::uint32_t e = 0; e < 8; ++e) word |= std::uint32_t{codes[c + e]} << (4 * nibble_of(e));
    store_u32(record + nibble_word(r, c), word);
  }
}

void store_bytes(std::byte* record, std::uint32_t r, const std::uint8_t* codes, std::uint32_t cols) {
  for (std::uint32_t c = 0; c < cols; c += 8) std::memcpy(record + byte_offset(r, c), codes + c, 8);
}

void store_piece(u4, std::byte* record, std::uint32_t r, const row_piece& p) {
  store_nibbles(record, r, p.codes, u4::cols);
  for (std::uint32_t j = 0; j < 4; ++j)
    store_u32(record + u4::scales(r, 32 * j), p.scale[j] | std::uint32_t{p.min[j]} << 16);
}

void store_piece(u4k, std::byte* record, std::uint32_t r, const row_piece& p) {
  store_nibbles(record, r, p.codes, u4k::cols);
  for (std::uint32_t j = 0; j < 8; ++j)
    store_u16(record + u4k::scales(r, 32 * j),
              static_cast<std::uint16_t>(p.small_scales[j] | unsigned{p.small_mins[j]} << 8));
  store_u32(record + u4k::super(r), p.d | std::uint32_t{p.dmin} << 16);
}

void store_piece(i8, std::byte* record, std::uint32_t r, const row_piece& p) {
  store_bytes(record, r, p.codes, i8::cols);
  for (std::uint32_t j = 0; j < 4; ++j) store_u16(record + i8::scales(r, 32 * j), p.scale[j]);
}

void store_piece(i6k, std::byte* record, std::uint32_t r, const row_piece& p) {
  for (std::uint32_t t = 0; t < 4; ++t) {
    for (std::uint32_t g = 0; g < 16; g += 4) {  // four groups share a word of upper bits, two one of low nibbles
      std::uint32_t low[2] = {0, 0}, high = 0;
      for (std::uint32_t k = g; k < g + 4; ++k)
        for (std::uint32_t i = 0; i < 4; ++i) {
          const std::uint32_t c = 16 * k + 4 * t + i, q = p.codes[c];
          low[(k - g) / 2] |= (q & 15) << i6k::low_shift(c);
          high |= (q >> 4) << i6k::high_shift(c);
        }
      store_u32(record + i6k::low(r, 16 * g + 4 * t), low[0]);
      store_u32(record + i6k::low(r, 16 * g + 32 + 4 * t), low[1]);
      store_u32(record + i6k::high(r, 16 * g + 4 * t), high);
    }
  }
  for (std::uint32_t k = 0; k < 16; ++k) record[i6k::scales(r, 16 * k)] = static_cast<std::byte>(p.small_scales[k]);
  store_u16(record + i6k::super(r), p.d);
}

void store_piece(f8, std::byte* record, std::uint32_t r, const row_piece& p) {
  store_bytes(record, r, p.codes, f8::cols);
}

/// The pieces of rows [first, last), and of the padding rows where `last` is the end. fill(piece, row, first column,
/// columns): the piece comes empty.
template <class Form, class Fill>
void write_rows(std::uint32_t rows, std::uint32_t cols, std::uint32_t first, std::uint32_t last, std::byte* packed,
                Fill&& fill) {
  const std::uint32_t end = last == rows ? tiles(rows) * tile_rows : last;
  for (std::uint32_t row = first; row < end; ++row)
    for (std::uint32_t k = 0; k < chunks<Form>(cols); ++k) {
      row_piece piece = empty_piece<Form>();
      const std::uint32_t c = k * Form::cols;
      if (row < rows) fill(piece, row, c, std::min(Form::cols, cols - c));
      store_piece(Form{}, packed + record_offset<Form>(row / tile_rows, k, cols), row % tile_rows, piece);
    }
}

template <class Block>
Block block_at(const std::byte* row, std::uint32_t index) {
  Block b;
  std::memcpy(&b, row + std::size_t{index} * sizeof(Block), sizeof b);
  return b;
}

// One overload per format: `block` becomes group `j` of a piece, or all of it.
void take(row_piece& p, std::uint32_t j, const block_q4_0& b) {
  p.scale[j] = b.d;
  p.min[j] = f32_to_f16(-8.0f * f16_to_f32(b.d));
  for (int i = 0; i < 32; ++i) p.codes[32 * j + i] = static_cast<std::uint8_t>(detail::nibble(b.qs, i));
}
void take(row_piece& p, std::uint32_t j, const block_q4_1& b) {
  p.scale[j] = b.d;
  p.min[j] = b.m;
  for (int i = 0; i < 32; ++i) p.codes[32 * j + i] = static_cast<std::uint8_t>(detail::nibble(b.qs, i));
}
void take(row_piece& p, std::uint32_t j, const block_q8_0& b) {
  p.scale[j] = b.d;
  for (int i = 0; i < 32; ++i) p.codes[32 * j + i] = static_cast<std::uint8_t>(b.qs[i] + 128);
}
void take(row_piece& p, std::uint32_t, const block_q4_k& b) {
  p.d = b.d;
  p.dmin = b.dmin;
  for (int g = 0; g < 8; ++g) {
    const scale_min sm = scale_min_k4(b.scales, g);
    p.small_scales[g] = sm.scale;
    p.small_mins[g] = sm.min;
    for (int i = 0; i < 32; ++i)
      p.codes[32 * g + i] = static_cast<std::uint8_t>((b.qs[32 * (g / 2) + i] >> (4 * (g % 2))) & 15);
  }
}
void take(row_piece& p, std::uint32_t, const block_q6_k& b) {
  p.d = b.d;
  for (int k = 0; k < 16; ++k) p.small_scales[k] = static_cast<std::uint8_t>(b.scales[k] + 128);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, j = i % 128;
    const int low = (b.ql[64 * half + j % 64] >> (4 * (j / 64))) & 15;
    const int high = (b.qh[32 * half + j % 32] >> (2 * (j / 32))) & 3;
    p.codes[i] = static_cast<std::uint8_t>(low | (high << 4));
  }
}

template <class Form, class Block>
void pack_blocks(const std::byte* source, std::uint32_t rows, std::uint32_t cols, std::uint32_t first,
                 std::uint32_t last, std::byte* packed) {
  const std::size_t row_bytes = std::size_t{cols} / Block::elements * sizeof(Block);
  write_rows<Form>(rows, cols, first, last, packed,
                   [&](row_piece& p, std::uint32_t row, std::uint32_t c, std::uint32_t n) {
                     for (std::uint32_t j = 0; j < n / Block::elements; ++j)
                       take(p, j, block_at<Block>(source + row * row_bytes, c / Block::elements + j));
                   });
}

std::uint8_t rounded_code(float x, float scale, float low, float high) {
  return static_cast<std::uint8_t>(scale == 0.0f ? 0.0f : std::clamp(std::nearbyint(x / scale), low, high));
}

void quantize_group(u4, row_piece& p, std::uint32_t j, const float* x) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  p.min[j] = f32_to_f16(*low);
  p.scale[j] = f32_to_f16((*high - *low) / 15.0f);
  const float scale = f16_to_f32(p.scale[j]), min = f16_to_f32(p.min[j]);
  for (int i = 0; i < 32; ++i) p.codes[32 * j + i] = rounded_code(x[i] - min, scale, 0.0f, 15.0f);
}

void quantize_group(i8, row_piece& p, std::uint32_t j, const float* x) {
  float amax = 0;
  for (int i = 0; i < 32; ++i) amax = std::max(amax, std::fabs(x[i]));
  p.scale[j] = f32_to_f16(amax / 127.0f);
  const float scale = f16_to_f32(p.scale[j]);
  for (int i = 0; i < 32; ++i) {
    const float code = scale == 0.0f ? 0.0f : std::clamp(std::nearbyint(x[i] / scale), -127.0f, 127.0f);
    p.codes[32 * j + i] = static_cast<std::uint8_t>(static_cast<int>(code) + 128);
  }
}

float e4m3_scale(const float* x, std::uint32_t n) {
  float amax = 0;
  for (std::uint32_t i = 0; i < n; ++i) amax = std::max(amax, std::fabs(x[i]));
  return amax == 0.0f ? 1.0f : amax / 448.0f;
}

/// f8: the padding rows' scales, where `last` is the end.
void clear_padding_scales(std::uint32_t rows, std::uint32_t last, std::byte* scales) {
  if (last == rows) std::memset(scales + std::size_t{rows} * 4, 0, std::size_t{tiles(rows) * tile_rows - rows} * 4);
}

}  // namespace

packed_form form_of(dtype type) {
  switch (type) {
    case dtype::q4_0:
    case dtype::q4_1:
      return packed_form::u4;
    case dtype::q8_0:
      return packed_form::i8;
    case dtype::q4_k:
      return packed_form::u4k;
    case dtype::q6_k:
      return packed_form::i6k;
    default:
      return packed_form::none;
  }
}

std::uint64_t packed_bytes(packed_form form, std::uint32_t rows, std::uint32_t cols) {
  return with_form(form, std::uint64_t{0}, [&](auto f) {
    using Form = decltype(f);
    const std::uint64_t records = record_offset<Form>(tiles(rows), 0, cols);
    return Form::form == packed_form::f8 ? records + std::uint64_t{tiles(rows)} * tile_rows * sizeof(float) : records;
  });
}

void pack_rows_host(dtype type, const std::byte* source, std::uint32_t rows, std::uint32_t cols,
                    std::uint32_t first_row, std::uint32_t last_row, std::byte* packed_host) {
  const auto pack = [&](auto function) { function(source, rows, cols, first_row, last_row, packed_host); };
  switch (type) {
    case dtype::q4_0:
      return pack(pack_blocks<u4, block_q4_0>);
    case dtype::q4_1:
      return pack(pack_blocks<u4, block_q4_1>);
    case dtype::q8_0:
      return pack(pack_blocks<i8, block_q8_0>);
    case dtype::q4_k:
      return pack(pack_blocks<u4k, block_q4_k>);
    case dtype::q6_k:
      return pack(pack_blocks<i6k, block_q6_k>);
    default:
      return;  // excluded by the precondition: form_of(type) is not none
  }
}

void quantize_rows_host(packed_form form, const float* source, std::uint32_t rows, std::uint32_t cols,
                        std::uint32_t first_row, std::uint32_t last_row, std::byte* packed_host) {
  const auto row_at = [&](std::uint32_t row) { return source + std::size_t{row - first_row} * cols; };
  const auto by_groups = [&](auto f) {
    write_rows<decltype(f)>(rows, cols, first_row, last_row, packed_host,
                            [&](row_piece& p, std::uint32_t row, std::uint32_t c, std::uint32_t n) {
                              for (std::uint32_t j = 0; j < n / 32; ++j)
                                quantize_group(f, p, j, row_at(row) + c + 32 * j);
                            });
  };
  if (form == packed_form::u4) by_groups(u4{});
  if (form == packed_form::i8) by_groups(i8{});
  if (form != packed_form::f8) return;
  std::byte* scales = packed_host + row_scales_offset(rows, cols);
  float scale = 1;
  write_rows<f8>(rows, cols, first_row, last_row, packed_host,
                 [&](row_piece& p, std::uint32_t row, std::uint32_t c, std::uint32_t n) {
                   const float* x = row_at(row);
                   if (c == 0) {
                     scale = e4m3_scale(x, cols);
                     std::memcpy(scales + std::size_t{row} * sizeof scale, &scale, sizeof scale);
                   }
                   for (std::uint32_t i = 0; i < n; ++i)
                     p.codes[i] = __nv_cvt_float_to_fp8(x[c + i] / scale, __NV_SATFINITE, __NV_E4M3);
                 });
  clear_padding_scales(rows, last_row, scales);
}

bool pack_e4m3_rows_host(const std::byte* source, float scale, std::uint32_t rows, std::uint32_t cols,
                         std::uint32_t first_row, std::uint32_t last_row, std::byte* packed_host) {
  const std::size_t n = std::size_t{last_row - first_row} * cols;
  const auto is_nan = [](std::byte code) { return (code & std::byte{0x7f}) == std::byte{0x7f}; };
  if (std::any_of(source, source + n, is_nan)) return false;
  write_rows<f8>(rows, cols, first_row, last_row, packed_host,
                 [&](row_piece& p, std::uint32_t row, std::uint32_t c, std::uint32_t count) {
                   std::memcpy(p.codes, source + std::size_t{row - first_row} * cols + c, count);
                 });
  std::byte* scales = packed_host + row_scales_offset(rows, cols);
  for (std::uint32_t row = first_row; row < last_row; ++row)
    std::memcpy(scales + std::size_t{row} * sizeof scale, &scale, sizeof scale);
  clear_padding_scales(rows, last_row, scales);
  return true;
}

}  // namespace troupe::kernels::gpu
