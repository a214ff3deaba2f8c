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

/// What a product leaves of the next norm beside the residual stream h, bit for bit: h times the norm's weight, rounded
/// to bf16, and the squares of each four.
inline void check_norm_half(const std::vector<float>& h, const std::vector<float>& norm_weight,
                            std::span<const std::uint8_t> weighted, const std::vector<float>& squares) {
  std::vector<float> times(h.size()), sums(h.size() / 4);
  for (std::size_t i = 0; i < h.size(); ++i) times[i] = h[i] * norm_weight[i];
  for (std::size_t i = 0; i < h.size(); i += 4)
    sums[i / 4] = (h[i] * h[i] + h[i + 1] * h[i + 1]) + (h[i + 2] * h[i + 2] + h[i + 3] * h[i + 3]);
  BOOST_TEST((decode(kernels::dtype::bf16, weighted) == rounded(kernels::dtype::bf16, times)));
  BOOST_TEST((squares == sums));
}

}  // namespace troupe::test
