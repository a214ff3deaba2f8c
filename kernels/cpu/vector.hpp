#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/isa.hpp"

/// Everything of a decoder's forward pass that is neither a matrix product nor attention, and the scans of the sampler.
/// All tiers compute the same bits: one source over sixteen lanes, explicit fma, fixed trees for sums.
///
/// Pointers have any alignment; n has any value. Nothing allocates, throws or keeps state.
namespace troupe::kernels::cpu {

/// Result of a scan for the largest element.
struct extreme {
  float value;
  std::uint32_t index;  ///< the lowest one of equals
  bool finite;          ///< no element was an infinity or a NaN; else value and index mean nothing
};

/// The key and counter of a draw, see kernels/common/philox.hpp.
struct draw_key {
  std::uint64_t seed;
  std::uint32_t choice;
  std::uint32_t position;
};

struct vector_kernels {
  /// y = x / sqrt(mean(x^2) + eps) * w. y may be x.
  void (*rms_norm)(const float* x, const float* w, float eps, std::size_t n, float* y);
  /// x += y
  void (*add)(float* x, const float* y, std::size_t n);
  /// y = silu(gate) * up. y may be either.
  void (*swiglu)(const float* gate, const float* up, std::size_t n, float* y);
  /// Rotates the first `dim` elements of each of n_heads heads in place. `table`: dim cosines, then dim sines, as
  /// `rope_row` makes them; pairs are (i, i + dim/2), or (2i, 2i+1) if `interleaved`.
  void (*rope)(float* x, std::uint32_t n_heads, std::uint32_t head_dim, std::uint32_t dim, bool interleaved,
               const float* table);
  extreme (*argmax)(const float* x, std::size_t n);
  /// Sum of exp((x - max) * scale): lanes within blocks of 4096 elements, blocks in double.
  double (*exp_sum)(const float* x, std::size_t n, float max, float scale);
  /// y = exp((x - max) * scale)
  void (*exp_scaled)(const float* x, std::size_t n, float max, float scale, float* y);
  /// Writes the indices of the elements >= threshold, ascending, and returns how many there are; stops writing at
  /// `capacity`, not counting.
  std::size_t (*select_at_least)(const float* x, std::size_t n, float threshold, std::uint32_t* indices,
                                 std::size_t capacity);
  /// argmax of (x[i] - max) * scale + gumbel(i) over all i < n, the lowest index of equals. max is the largest element.
  extreme (*gumbel_argmax)(const float* x, std::size_t n, float max, float scale, draw_key);
};

/// The tier must be supported by this processor.
const vector_kernels& vector_kernels_for(isa tier);

/// Fills one row of a rope table, 2 * dim floats: cosines and signed sines of position * inverse_frequencies[i], times
/// `factor`, laid out so that both pairings read them alike. Computed in double with its own sine, the same on every
/// processor; error of the angle below 1e-8 up to position 2^24.
void rope_row(const double* inverse_frequencies, std::uint32_t dim, bool interleaved, std::uint32_t position,
              double factor, float* table);

}  // namespace troupe::kernels::cpu
