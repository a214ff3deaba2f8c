#include <algorithm>
#include <cmath>
#include <numbers>

#include "src/model/config.hpp"

namespace troupe::model {
namespace {

using real = long double;  // x87 arithmetic: the same bits on every x86, which libm's double functions do not promise

constexpr real two_pi = 2 * std::numbers::pi_v<real>;

/// The dimension whose wave makes `rotations` turns within the original context.
real correction_dim(const rope_config& r, real rotations) {
  return r.dim * std::log(r.original_context / (rotations * two_pi)) / (2 * std::log(static_cast<real>(r.theta)));
}

real llama3_scaled(const rope_config& r, real frequency) {
  const real wave = two_pi / frequency;
  const real low = r.original_context / r.low_freq_factor, high = r.original_context / r.high_freq_factor;
  if (wave > low) return frequency / r.factor;
  if (wave < high) return frequency;
  const real smooth =
      (r.original_context / wave - r.low_freq_factor) / (static_cast<real>(r.high_freq_factor) - r.low_freq_factor);
  return (1 - smooth) * frequency / r.factor + smooth * frequency;
}

}  // namespace

std::vector<double> inverse_frequencies(const rope_config& r, std::span<const float> divisors) {
  const std::uint32_t half = r.dim / 2;
  real yarn_low = 0, yarn_high = 0;
  if (r.scaling == rope_scaling::yarn) {
    yarn_low = correction_dim(r, r.beta_fast);
    yarn_high = correction_dim(r, r.beta_slow);
    if (r.truncate) {
      yarn_low = std::floor(yarn_low);
      yarn_high = std::ceil(yarn_high);
    }
    yarn_low = std::max<real>(yarn_low, 0);
    yarn_high = std::min<real>(yarn_high, r.dim - 1);
    if (yarn_low == yarn_high) yarn_high += 0.001L;
  }
  std::vector<double> out(half);
  for (std::uint32_t i = 0; i < half; ++i) {
    real f = std::pow(static_cast<real>(r.theta), -2 * static_cast<real>(i) / r.dim);
    switch (r.scaling) {
      case rope_scaling::none: break;
      case rope_scaling::linear: f /= r.factor; break;
      case rope_scaling::llama3: f = llama3_scaled(r, f); break;
      case rope_scaling::yarn: {
        const real ramp = std::clamp<real>((i - yarn_low) / (yarn_high - yarn_low), 0, 1);
        f = f / r.factor * ramp + f * (1 - ramp);
        break;
      }
    }
    if (!divisors.empty()) f /= divisors[i];
    out[i] = static_cast<double>(f);
  }
  return out;
}

}  // namespace troupe::model
