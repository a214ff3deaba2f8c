#pragma once
#include "kernels/gpu/gemv.hpp"
#include "tests/gpu_kernels/device.hpp"

namespace troupe::test {

/// Squares in groups of four, as a product before this one leaves them, and what x is to be multiplied with.
struct norm_half {
  std::vector<float> squares;
  device_array<float> on_device;
  double factor;
  static constexpr float eps = 1e-5f;
  norm_half(std::uint32_t cols, std::mt19937& rng) : squares(cols / 4), on_device(squares.size()) {
    std::uniform_real_distribution<float> d(0, 40);
    double sum = 0;
    for (float& s : squares) sum += double{s = d(rng)};
    on_device.put(squares);
    factor = 1 / std::sqrt(sum / cols + double{eps});
  }
  kernels::gpu::rms_scale scale() const { return {on_device, static_cast<std::uint32_t>(squares.size()), eps}; }
};

}  // namespace troupe::test
