#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>

namespace troupe::kernels {

/// How the elements of a tensor are stored. The values below 2^16 are ggml's type ids (ggml/include/ggml.h), as they
/// stand in a GGUF file; those that GGUF does not know (they occur in safetensors) start at 2^16 and are never accepted
/// from a GGUF.
enum class dtype : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q8_1 = 9,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  q8_k = 15,
  iq2_xxs = 16,
  iq2_xs = 17,
  iq3_xxs = 18,
  iq1_s = 19,
  iq4_nl = 20,
  iq3_s = 21,
  iq2_s = 22,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  iq1_m = 29,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
  nvfp4 = 40,
  q1_0 = 41,

  u8 = 0x10000,
  u16,
  u32,
  u64,
  boolean,
  f8_e4m3,
  f8_e5m2,
};

/// What is constant for a dtype. Elements come in blocks of `block_elements`, each `block_bytes` long; a row is whole
/// blocks.
struct dtype_traits {
  dtype type;
  std::string_view name;         ///< as ggml or safetensors writes it, upper case
  std::uint32_t block_elements;  ///< 1 for plain types
  std::uint32_t block_bytes;
  bool quantized;  ///< blocks with scales: not plain numbers
  bool readable;   ///< can become f32: format::dequantize takes it
};

namespace detail {

// Block sizes as in gguf-py's GGML_QUANT_SIZES.
inline constexpr std::array dtype_table{
    dtype_traits{dtype::f32, "F32", 1, 4, false, true},
    dtype_traits{dtype::f16, "F16", 1, 2, false, true},
    dtype_traits{dtype::q4_0, "Q4_0", 32, 18, true, true},
    dtype_traits{dtype::q4_1, "Q4_1", 32, 20, true, true},
    dtype_traits{dtype::q5_0, "Q5_0", 32, 22, true, true},
    dtype_traits{dtype::q5_1, "Q5_1", 32, 24, true, true},
    dtype_traits{dtype::q8_0, "Q8_0", 32, 34, true, true},
    // ggml's own structure has 36 bytes (two f16), gguf-py's table says 40; the type occurs in memory only, never in a
    // file.
    dtype_traits{dtype::q8_1, "Q8_1", 32, 36, true, false},
    dtype_traits{dtype::q2_k, "Q2_K", 256, 84, true, true},
    dtype_traits{dtype::q3_k, "Q3_K", 256, 110, true, true},
    dtype_traits{dtype::q4_k, "Q4_K", 256, 144, true, true},
    dtype_traits{dtype::q5_k, "Q5_K", 256, 176, true, true},
    dtype_traits{dtype::q6_k, "Q6_K", 256, 210, true, true},
    dtype_traits{dtype::q8_k, "Q8_K", 256, 292, true, false},
    dtype_traits{dtype::iq2_xxs, "IQ2_XXS", 256, 66, true, false},
    dtype_traits{dtype::iq2_xs, "IQ2_XS", 256, 74, true, false},
    dtype_traits{dtype::iq3_xxs, "IQ3_XXS", 256, 98, true, false},
    dtype_traits{dtype::iq1_s, "IQ1_S", 256, 50, true, false},
    dtype_traits{dtype::iq4_nl, "IQ4_NL", 32, 18, true, true},
    dtype_traits{dtype::iq3_s, "IQ3_S", 256, 110, true, false},
    dtype_traits{dtype::iq2_s, "IQ2_S", 256, 82, true, false},
    dtype_traits{dtype::iq4_xs, "IQ4_XS", 256, 136, true, true},
    dtype_traits{dtype::i8, "I8", 1, 1, false, false},
    dtype_traits{dtype::i16, "I16", 1, 2, false, false},
    dtype_traits{dtype::i32, "I32", 1, 4, false, false},
    dtype_traits{dtype::i64, "I64", 1, 8, false, false},
    dtype_traits{dtype::f64, "F64", 1, 8, false, false},
    dtype_traits{dtype::iq1_m, "IQ1_M", 256, 56, true, false},
    dtype_traits{dtype::bf16, "BF16", 1, 2, false, true},
    dtype_traits{dtype::tq1_0, "TQ1_0", 256, 54, true, false},
    dtype_traits{dtype::tq2_0, "TQ2_0", 256, 66, true, false},
    dtype_traits{dtype::mxfp4, "MXFP4", 32, 17, true, true},
    dtype_traits{dtype::nvfp4, "NVFP4", 64, 36, true, false},
    dtype_traits{dtype::q1_0, "Q1_0", 128, 18, true, false},
    dtype_traits{dtype::u8, "U8", 1, 1, false, false},
    dtype_traits{dtype::u16, "U16", 1, 2, false, false},
    dtype_traits{dtype::u32, "U32", 1, 4, false, false},
    dtype_traits{dtype::u64, "U64", 1, 8, false, false},
    dtype_traits{dtype::boolean, "BOOL", 1, 1, false, false},
    dtype_traits{dtype::f8_e4m3, "F8_E4M3", 1, 1, false, true},
    dtype_traits{dtype::f8_e5m2, "F8_E5M2", 1, 1, false, false},
};

inline constexpr dtype_traits no_dtype{static_cast<dtype>(0xffffffffu), "?", 0, 0, false, false};

}  // namespace detail

/// Every dtype there is, in order of its value.
constexpr const auto& dtypes() noexcept { return detail::dtype_table; }

/// The traits of an enumerator. A value that is none of them gives an entry with name "?" and zero sizes.
constexpr const dtype_traits& traits(dtype type) noexcept {
  for (const dtype_traits& t : detail::dtype_table) {
    if (t.type == type) return t;
  }
  return detail::no_dtype;
}

constexpr std::string_view name(dtype type) noexcept { return traits(type).name; }

/// The dtype of a type id found in a GGUF file; none for the holes in ggml's numbering (4, 5, 31-33, 36-38) and unknown
/// ids.
constexpr std::optional<dtype> dtype_of_ggml_id(std::uint32_t id) noexcept {
  if (id >= 0x10000 || traits(static_cast<dtype>(id)).block_bytes == 0) return std::nullopt;
  return static_cast<dtype>(id);
}

/// The dtype with this name (upper case, "Q4_K"); none if there is no such name.
constexpr std::optional<dtype> dtype_of_name(std::string_view name) noexcept {
  for (const dtype_traits& t : detail::dtype_table) {
    if (t.name == name) return t.type;
  }
  return std::nullopt;
}

/// Bytes of `n_elements` consecutive elements; none if they are not whole blocks or the size does not fit 64 bits.
constexpr std::optional<std::uint64_t> bytes_of(dtype type, std::uint64_t n_elements) noexcept {
  const dtype_traits& t = traits(type);
  if (t.block_elements == 0 || n_elements % t.block_elements != 0) return std::nullopt;
  const std::uint64_t n_blocks = n_elements / t.block_elements;
  if (n_blocks > std::numeric_limits<std::uint64_t>::max() / t.block_bytes) return std::nullopt;
  return n_blocks * t.block_bytes;
}

}  // namespace troupe::kernels
