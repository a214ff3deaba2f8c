#include <algorithm>
#include <cstring>

#include "kernels/common/blocks.hpp"
#include "kernels/cpu/matmul.hpp"
#include "kernels/cpu/matmul_layout.hpp"

namespace troupe::kernels::cpu {
namespace {

// Four codes of one row travel as one 32-bit word, so all of this is shifts and masks on words.
std::uint32_t load32(const void* p) {
  std::uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
void store(std::byte* p, T v) {
  std::memcpy(p, &v, sizeof v);
}

constexpr std::uint32_t low_nibbles = 0x0f0f0f0fu, low_pairs = 0x03030303u, low_bits = 0x01010101u;

/// One row's share of a group's planes. `word` j is slice j; what lies above the bits in question is ignored.
template <class Word>
void put_nibbles(std::byte* group, int r, Word word) {
  for (int j = 0; j < 4; ++j)
    store(group + 64 * j + 4 * r, (word(j) & low_nibbles) | ((word(j + 4) & low_nibbles) << 4));
}
template <class Word>
void put_pairs(std::byte* plane, int r, Word word) {
  for (int h = 0; h < 2; ++h) {
    std::uint32_t v = 0;
    for (int f = 0; f < 4; ++f) v |= (word(2 * f + h) & low_pairs) << (2 * f);
    store(plane + 64 * h + 4 * r, v);
  }
}
template <class Word>
void put_bits(std::byte* plane, int r, Word word) {
  std::uint32_t v = 0;
  for (int j = 0; j < 8; ++j) v |= (word(j) & low_bits) << j;
  store(plane + 4 * r, v);
}
/// Nibbles of a 32-element block lie in the file as the nibble plane wants them.
void copy_nibbles(std::byte* group, int r, const std::uint8_t* qs) {
  for (int j = 0; j < 4; ++j) store(group + 64 * j + 4 * r, load32(qs + 4 * j));
}
/// The fifth bits of Q5_0 and Q5_1: bit 4 j + b of qh belongs to byte b of slice j.
void put_fifth_bits(std::byte* plane, int r, const std::uint8_t* qh) {
  const std::uint32_t h = load32(qh);
  // The factor copies bit b of a nibble to bit 8 b.
  put_bits(plane, r, [h](int j) { return ((h >> (4 * j)) & 15u) * 0x00204081u; });
}
auto words(const std::uint8_t* bytes, int shift) {
  return [bytes, shift](int j) { return load32(bytes + 4 * j) >> shift; };
}

template <dtype Type>
constexpr layout layout_for = layout_of(Type);

// put(block, run, r): row r of a run (a group, or a header and eight groups) from one block of the file.
template <class Block>
std::byte* scales_of(std::byte* group) {
  return group + layout_for<Block::type>.code_bytes();
}
template <class Block>
std::byte* group_of(std::byte* run, int g) {
  constexpr layout l = layout_for<Block::type>;
  return run + l.header_bytes() + static_cast<std::size_t>(g) * l.group_bytes();
}

void put(const block_q4_0& b, std::byte* run, int r) {
  copy_nibbles(run, r, b.qs);
  store(scales_of<block_q4_0>(run) + 2 * r, b.d);
}
void put(const block_q4_1& b, std::byte* run, int r) {
  copy_nibbles(run, r, b.qs);
  store(scales_of<block_q4_1>(run) + 2 * r, b.d);
  store(scales_of<block_q4_1>(run) + 32 + 2 * r, b.m);
}
void put(const block_q5_0& b, std::byte* run, int r) {
  copy_nibbles(run, r, b.qs);
  put_fifth_bits(run + layout_for<dtype::q5_0>.bit_plane(), r, b.qh);
  store(scales_of<block_q5_0>(run) + 2 * r, b.d);
}
void put(const block_q5_1& b, std::byte* run, int r) {
  copy_nibbles(run, r, b.qs);
  put_fifth_bits(run + layout_for<dtype::q5_1>.bit_plane(), r, b.qh);
  store(scales_of<block_q5_1>(run) + 2 * r, b.d);
  store(scales_of<block_q5_1>(run) + 32 + 2 * r, b.m);
}
void put(const block_q8_0& b, std::byte* run, int r) {
  for (int j = 0; j < 8; ++j) store(run + 64 * j + 4 * r, load32(b.qs + 4 * j));
  store(scales_of<block_q8_0>(run) + 2 * r, b.d);
}
void put(const block_q2_k& b, std::byte* run, int r) {
  store(run + 2 * r, b.d);
  store(run + 32 + 2 * r, b.dmin);
  for (int g = 0; g < 8; ++g) {
    std::byte* group = group_of<block_q2_k>(run, g);
    put_pairs(group, r, words(b.qs + 32 * (g / 4), 2 * (g % 4)));
    for (int half = 0; half < 2; ++half) store(scales_of<block_q2_k>(group) + 16 * half + r, b.scales[2 * g + half]);
  }
}
void put(const block_q3_k& b, std::byte* run, int r) {
  store(run + 2 * r, b.d);
  for (int g = 0; g < 8; ++g) {
    std::byte* group = group_of<block_q3_k>(run, g);
    put_pairs(group, r, words(b.qs + 32 * (g / 4), 2 * (g % 4)));
    put_bits(group + layout_for<dtype::q3_k>.bit_plane(), r, words(b.hmask, g));
    for (int half = 0; half < 2; ++half)
      store(scales_of<block_q3_k>(group) + 16 * half + r, static_cast<std::int8_t>(scale_k3(b.scales, 2 * g + half)));
  }
}
template <class Block>
void put_scale_min(const Block& b, std::byte* run, int r) {
  store(run + 2 * r, b.d);
  store(run + 32 + 2 * r, b.dmin);
  for (int g = 0; g < 8; ++g) {
    std::byte* scales = scales_of<Block>(group_of<Block>(run, g));
    const scale_min s = scale_min_k4(b.scales, g);
    store(scales + r, s.scale);
    store(scales + 16 + r, s.min);
  }
}
void put(const block_q4_k& b, std::byte* run, int r) {
  put_scale_min(b, run, r);
  for (int g = 0; g < 8; ++g)
    put_nibbles(group_of<block_q4_k>(run, g), r, words(b.qs + 32 * (g / 2), 4 * (g % 2)));
}
void put(const block_q5_k& b, std::byte* run, int r) {
  put_scale_min(b, run, r);
  for (int g = 0; g < 8; ++g) {
    std::byte* group = group_of<block_q5_k>(run, g);
    put_nibbles(group, r, words(b.qs + 32 * (g / 2), 4 * (g % 2)));
    put_bits(group + layout_for<dtype::q5_k>.bit_plane(), r, words(b.qh, g));
  }
}
void put(const block_q6_k& b, std::byte* run, int r) {
  store(run + 2 * r, b.d);
  for (int g = 0; g < 8; ++g) {
    const int half_block = g / 4, quarter = g % 4;
    std::byte* group = group_of<block_q6_k>(run, g);
    put_nibbles(group, r, words(b.ql + 64 * half_block + 32 * (quarter % 2), 4 * (quarter / 2)));
    put_pairs(group + layout_for<dtype::q6_k>.pair_plane(), r, words(b.qh + 32 * half_block, 2 * quarter));
    for (int half = 0; half < 2; ++half) store(scales_of<block_q6_k>(group) + 16 * half + r, b.scales[2 * g + half]);
  }
}
void put(const block_iq4_nl& b, std::byte* run, int r) {
  copy_nibbles(run, r, b.qs);
  store(scales_of<block_iq4_nl>(run) + 4 * r, f16_to_f32(b.d));
}
void put(const block_iq4_xs& b, std::byte* run, int r) {
  const float d = f16_to_f32(b.d);
  for (int g = 0; g < 8; ++g) {
    std::byte* group = group_of<block_iq4_xs>(run, g);
    copy_nibbles(group, r, b.qs + 16 * g);
    const int scale = ((b.scales_l[g / 2] >> (4 * (g % 2))) & 15) | (((b.scales_h >> (2 * g)) & 3) << 4);
    store(scales_of<block_iq4_xs>(group) + 4 * r, d * static_cast<float>(scale - 32));
  }
}
void put(const block_mxfp4& b, std::byte* run, int r) {
  copy_nibbles(run, r, b.qs);
  store(scales_of<block_mxfp4>(run) + 4 * r, e8m0_to_f32_half(b.e));
}

template <class Block>
void pack_tile(const std::byte* source, std::uint32_t rows_here, std::uint32_t cols, std::byte* tile) {
  constexpr layout l = layout_for<Block::type>;
  constexpr std::size_t run_bytes = Block::elements / group_size * l.group_bytes() + l.header_bytes();
  const std::size_t n_blocks = cols / Block::elements;
  const std::size_t row_bytes = n_blocks * sizeof(Block);
  if (rows_here < tile_rows) std::memset(tile, 0, l.tile_bytes(cols));
  for (std::size_t i = 0; i < n_blocks; ++i) {
    std::byte* run = tile + i * run_bytes;
    for (std::uint32_t r = 0; r < rows_here; ++r) {
      Block block;
      std::memcpy(&block, source + r * row_bytes + i * sizeof(Block), sizeof(Block));
      put(block, run, static_cast<int>(r));
    }
  }
}

template <class T>
void pack_float_tile(const std::byte* source, std::uint32_t rows_here, std::uint32_t cols, std::byte* tile) {
  const std::size_t row_bytes = cols * sizeof(T);
  if (rows_here < tile_rows) std::memset(tile, 0, row_bytes * tile_rows);
  // Columns in strips that stay in the first-level cache while the rows are spread over them.
  constexpr std::uint32_t strip = 64;
  for (std::uint32_t k0 = 0; k0 < cols; k0 += strip) {
    const std::uint32_t n = std::min(strip, cols - k0);
    for (std::uint32_t r = 0; r < rows_here; ++r) {
      const std::byte* from = source + r * row_bytes + k0 * sizeof(T);
      std::byte* to = tile + (std::size_t{k0} * tile_rows + r) * sizeof(T);
      for (std::uint32_t k = 0; k < n; ++k) std::memcpy(to + k * tile_rows * sizeof(T), from + k * sizeof(T), sizeof(T));
    }
  }
}

using pack_tile_function = void (*)(const std::byte*, std::uint32_t, std::uint32_t, std::byte*);

pack_tile_function packer_of(dtype type) {
  switch (type) {
    case dtype::f32: return pack_float_tile<std::uint32_t>;
    case dtype::f16:
    case dtype::bf16: return pack_float_tile<std::uint16_t>;
    case dtype::q4_0: return pack_tile<block_q4_0>;
    case dtype::q4_1: return pack_tile<block_q4_1>;
    case dtype::q5_0: return pack_tile<block_q5_0>;
    case dtype::q5_1: return pack_tile<block_q5_1>;
    case dtype::q8_0: return pack_tile<block_q8_0>;
    case dtype::q2_k: return pack_tile<block_q2_k>;
    case dtype::q3_k: return pack_tile<block_q3_k>;
    case dtype::q4_k: return pack_tile<block_q4_k>;
    case dtype::q5_k: return pack_tile<block_q5_k>;
    case dtype::q6_k: return pack_tile<block_q6_k>;
    case dtype::iq4_nl: return pack_tile<block_iq4_nl>;
    case dtype::iq4_xs: return pack_tile<block_iq4_xs>;
    case dtype::mxfp4: return pack_tile<block_mxfp4>;
    default: return nullptr;
  }
}

}  // namespace

bool can_pack(dtype type, std::uint32_t cols) {
  return packer_of(type) != nullptr && cols != 0 && cols % traits(type).block_elements == 0;
}

bool wants_groups(dtype type) { return !is_float(type); }

std::size_t packed_bytes(dtype type, std::uint32_t rows, std::uint32_t cols) {
  return can_pack(type, cols) ? n_tiles(rows) * tile_bytes(type, cols) : 0;
}

void pack_tiles(dtype type, const std::byte* source, std::uint32_t rows, std::uint32_t cols, std::uint32_t first_tile,
                std::uint32_t last_tile, std::byte* packed) {
  const pack_tile_function pack = packer_of(type);
  const std::size_t to_bytes = tile_bytes(type, cols);
  const std::size_t from_bytes = *bytes_of(type, cols) * tile_rows;
  for (std::uint32_t tile = first_tile; tile < last_tile; ++tile)
    pack(source + tile * from_bytes, std::min(tile_rows, rows - tile * tile_rows), cols, packed + tile * to_bytes);
}

}  // namespace troupe::kernels::cpu
