#pragma once
#include <bit>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels/common/blocks.hpp"
#include "kernels/cpu/matmul.hpp"

/// Material of the matmul tests: random weights of every type, buffers full of NaN, products by any tier.
namespace matmul_cases {

using namespace troupe::kernels;
using namespace troupe::kernels::cpu;

inline constexpr dtype quantized_types[] = {dtype::q4_0, dtype::q4_1, dtype::q5_0,   dtype::q5_1,   dtype::q8_0,
                                            dtype::q2_k, dtype::q3_k, dtype::q4_k,   dtype::q5_k,   dtype::q6_k,
                                            dtype::iq4_nl, dtype::iq4_xs, dtype::mxfp4};
inline constexpr dtype float_types[] = {dtype::f32, dtype::f16, dtype::bf16};

inline std::vector<dtype> all_types() {
  std::vector<dtype> all(std::begin(quantized_types), std::end(quantized_types));
  all.insert(all.end(), std::begin(float_types), std::end(float_types));
  return all;
}

inline std::vector<isa> tiers() {
  std::vector<isa> found;
  for (isa tier : {isa::scalar, isa::avx2, isa::avx512})
    if (isa_supported(tier)) found.push_back(tier);
  return found;
}

/// Memory aligned to 64 whose every f32, f16 and bf16 is NaN.
template <class T>
class poisoned {
 public:
  explicit poisoned(std::size_t n) : bytes_((n * sizeof(T) + 63) / 64 * 64) {
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes_ ? bytes_ : 64)));
    std::memset(static_cast<void*>(data_.get()), 0xff, bytes_);
  }
  T* get() { return data_.get(); }
  const T* get() const { return data_.get(); }

 private:
  struct free_it {
    void operator()(T* p) const { std::free(p); }
  };
  std::size_t bytes_;
  std::unique_ptr<T, free_it> data_;
};

/// Random blocks: codes and integer scales are random bits, f16 scales have magnitudes between 2^-8 and 2^-5.
inline std::vector<std::byte> random_weights(dtype type, std::uint32_t rows, std::uint32_t cols, std::mt19937& random) {
  std::vector<std::byte> bytes(*bytes_of(type, std::uint64_t{rows} * cols));
  for (auto& b : bytes) b = static_cast<std::byte>(random());
  const auto scale_at = [&](std::size_t offset) {
    const std::uint16_t bits = static_cast<std::uint16_t>((random() & 0x8fffu) | 0x1c00u);  // exponent 7 to 10 or 11
    std::memcpy(bytes.data() + offset, &bits, 2);
  };
  const std::size_t block = traits(type).block_bytes;
  const auto each = [&](std::initializer_list<std::size_t> offsets) {
    for (std::size_t b = 0; b < bytes.size(); b += block)
      for (std::size_t offset : offsets) scale_at(b + offset);
  };
  switch (type) {
    case dtype::q4_0:
    case dtype::q5_0:
    case dtype::q8_0:
    case dtype::iq4_nl:
    case dtype::iq4_xs: each({0}); break;
    case dtype::q4_1:
    case dtype::q5_1:
    case dtype::q4_k:
    case dtype::q5_k: each({0, 2}); break;
    case dtype::q2_k: each({80, 82}); break;
    case dtype::q3_k: each({108}); break;
    case dtype::q6_k: each({208}); break;
    case dtype::mxfp4:
      for (std::size_t b = 0; b < bytes.size(); b += block) bytes[b] = static_cast<std::byte>(118 + random() % 6);
      break;
    default: {
      std::normal_distribution<float> normal(0.0f, 0.05f);
      for (std::size_t i = 0; i < bytes.size(); i += block) {
        const float v = normal(random);
        const std::uint16_t h = type == dtype::f16 ? f32_to_f16(v) : f32_to_bf16(v);
        std::memcpy(bytes.data() + i, type == dtype::f32 ? static_cast<const void*>(&v) : &h, block);
      }
    }
  }
  return bytes;
}

/// Normal, with one column in 97 larger by a factor.
inline std::vector<float> random_rows(std::uint32_t m, std::uint32_t cols, std::mt19937& random, float outlier = 50.0f) {
  std::normal_distribution<float> normal;
  std::vector<float> x(std::size_t{m} * cols);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = normal(random) * (i % cols % 97 == 13 ? outlier : 1.0f);
  return x;
}

/// What the digits of column k make together.
inline int code_of(const activation_group& g, std::uint32_t k) {
  return 256 * g.digits[0].codes[k] + g.digits[1].codes[k];
}

class packed {
 public:
  packed(dtype type, const std::vector<std::byte>& source, std::uint32_t rows, std::uint32_t cols)
      : bytes_(packed_bytes(type, rows, cols)), view_{type, rows, cols, bytes_.get()} {
    // Two calls, later tiles first, from a source that starts at an odd address.
    std::vector<std::byte> odd(source.size() + 1);
    std::memcpy(odd.data() + 1, source.data(), source.size());
    const std::uint32_t n = n_tiles(rows), middle = n / 3;
    pack_tiles(type, odd.data() + 1, rows, cols, middle, n, bytes_.get());
    pack_tiles(type, odd.data() + 1, rows, cols, 0, middle, bytes_.get());
  }
  const packed_matrix& view() const { return view_; }

 private:
  poisoned<std::byte> bytes_;
  packed_matrix view_;
};

inline constexpr std::size_t y_margin = 5;

/// The whole product with rows of y `y_margin` longer than needed, tiles in the given pieces.
inline std::vector<float> product(isa tier, const packed_matrix& w, const float* x, std::uint32_t m,
                                  std::uint32_t tiles_at_once = ~0u) {
  const matmul_kernels& kernels = matmul_kernels_for(tier);
  poisoned<activation_group> groups(wants_groups(w.type) ? quantized_groups(m, w.cols) : 0);
  if (wants_groups(w.type)) kernels.quantize_rows(x, w.cols, m, w.cols, 0, m, groups.get());
  const std::size_t ld = w.rows + y_margin;
  poisoned<float> y(ld * m);
  const activations a{x, w.cols, groups.get()};
  const std::uint32_t n = n_tiles(w.rows);
  for (std::uint32_t first = 0; first < n; first += std::min(n, tiles_at_once))
    kernels.matmul(w, first, std::min(n, first + std::min(n, tiles_at_once)), a, m, y.get(), ld);
  return {y.get(), y.get() + ld * m};
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace matmul_cases
