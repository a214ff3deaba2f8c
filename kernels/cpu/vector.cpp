#include "kernels/cpu/vector.hpp"

#include "kernels/cpu/vector_impl.hpp"
#include "kernels/cpu/vector_tiers.hpp"

namespace troupe::kernels::cpu {

const vector_kernels vector_kernels_scalar = table;

const vector_kernels& vector_kernels_for(isa tier) {
  switch (tier) {
    case isa::avx512: return vector_kernels_avx512;
    case isa::avx2: return vector_kernels_avx2;
    default: return vector_kernels_scalar;
  }
}

namespace {

struct sine_cosine {
  double sine, cosine;
};

/// Range reduction by pi/2 in three parts and the kernels of fdlibm (k_sin.c, k_cos.c) without its correction terms:
/// about 1e-15, which is all a table in f32 needs. No libm function, whose last bit depends on the processor.
sine_cosine sine_and_cosine(double x) {
  constexpr double two_over_pi = 6.36619772367581382433e-01;
  constexpr double part1 = 1.57079632673412561417e+00;  // the first 33 bits of pi/2: n * part1 is exact
  constexpr double part2 = 6.07710050630396597660e-11;  // the next 33
  constexpr double part3 = 2.02226624879595063154e-21;
  const double n = std::nearbyint(x * two_over_pi);
  const double r = ((x - n * part1) - n * part2) - n * part3;
  const double z = r * r;
  const double sine =
      r + r * z *
              (-1.66666666666666324348e-01 +
               z * (8.33333333332248946124e-03 +
                    z * (-1.98412698298579493134e-04 +
                         z * (2.75573137070700676789e-06 + z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10)))));
  const double cosine =
      1.0 - 0.5 * z +
      z * z *
          (4.16666666666666019037e-02 +
           z * (-1.38888888888741095749e-03 +
                z * (2.48015872894767294178e-05 +
                     z * (-2.75573143513906633035e-07 + z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11)))));
  switch (static_cast<std::int64_t>(n) & 3) {
    case 0: return {sine, cosine};
    case 1: return {cosine, -sine};
    case 2: return {-sine, -cosine};
    default: return {-cosine, sine};
  }
}

}  // namespace

void rope_row(const double* inverse_frequencies, std::uint32_t dim, bool interleaved, std::uint32_t position,
              double factor, float* out) {
  const std::uint32_t half = dim / 2;
  float* cosines = out;
  float* sines = out + dim;
  for (std::uint32_t i = 0; i < half; ++i) {
    const sine_cosine t = sine_and_cosine(position * inverse_frequencies[i]);
    const std::uint32_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
    cosines[a] = cosines[b] = static_cast<float>(t.cosine * factor);
    sines[a] = static_cast<float>(-t.sine * factor);
    sines[b] = static_cast<float>(t.sine * factor);
  }
}

}  // namespace troupe::kernels::cpu
