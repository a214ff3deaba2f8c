#pragma once
#include <cuda_runtime_api.h>

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "kernels/common/dtype.hpp"
#include "kernels/common/floats.hpp"
#include "kernels/gpu/dense.hpp"
#include "tests/simt/emulated.hpp"

/// Memory on the card for tests, with what lies around it watched.
namespace troupe::test {

inline void check(cudaError_t code) {
  if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}

/// An array on the device, with a guard on either side that must not change. Fresh memory is poisoned with 0xff: NaN in
/// every float format here.
template <class T>
class device_array {
 public:
  static constexpr std::size_t guard = 256;

  explicit device_array(std::size_t n) : n_(n) {
    check(cudaMalloc(reinterpret_cast<void**>(&base_), bytes()));
    poison();
  }
  explicit device_array(std::span<const T> values) : device_array(values.size()) { put(values); }
  explicit device_array(const std::vector<T>& values) : device_array(std::span<const T>(values)) {}
  device_array(const device_array&) = delete;
  device_array& operator=(const device_array&) = delete;
  ~device_array() {
    if (base_) cudaFree(base_);
  }

  T* get() const { return reinterpret_cast<T*>(base_ + guard); }
  operator T*() const { return get(); }
  std::size_t size() const { return n_; }
  void poison() { check(cudaMemset(base_, 0xff, bytes())); }
  void put(std::span<const T> values) {
    BOOST_REQUIRE_LE(values.size(), n_);
    check(cudaMemcpy(get(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice));
  }
  /// Waits for the device; fails the test if a guard was written.
  std::vector<T> take() const {
    std::vector<std::uint8_t> all(bytes());
    check(cudaDeviceSynchronize());
    check(cudaMemcpy(all.data(), base_, all.size(), cudaMemcpyDeviceToHost));
    for (std::size_t i = 0; i < guard; ++i)
      if (all[i] != 0xff || all[all.size() - 1 - i] != 0xff) {
        BOOST_ERROR("memory beside a device array was written");
        break;
      }
    std::vector<T> out(n_);
    if (n_) __builtin_memcpy(static_cast<void*>(out.data()), all.data() + guard, n_ * sizeof(T));
    return out;
  }

 private:
  std::size_t bytes() const { return n_ * sizeof(T) + 2 * guard; }
  std::size_t n_;
  std::uint8_t* base_ = nullptr;
};

/// f32 values as elements of a compute type (bits of 2 or 4 bytes each), and back.
inline std::vector<std::uint8_t> encode(kernels::dtype type, std::span<const float> x) {
  std::vector<std::uint8_t> out;
  const auto add = [&out](auto v) {
    const auto* p = reinterpret_cast<const std::uint8_t*>(&v);
    out.insert(out.end(), p, p + sizeof v);
  };
  for (float f : x) {
    if (type == kernels::dtype::f32) add(f);
    if (type == kernels::dtype::f16) add(kernels::f32_to_f16(f));
    if (type == kernels::dtype::bf16) add(kernels::f32_to_bf16(f));
  }
  return out;
}
inline std::vector<float> decode(kernels::dtype type, std::span<const std::uint8_t> bytes) {
  const std::size_t size = type == kernels::dtype::f32 ? 4 : 2;
  std::vector<float> out(bytes.size() / size);
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint32_t bits = 0;
    __builtin_memcpy(&bits, bytes.data() + i * size, size);
    out[i] = type == kernels::dtype::f32   ? std::bit_cast<float>(bits)
             : type == kernels::dtype::f16 ? kernels::f16_to_f32(static_cast<kernels::f16_bits>(bits))
                                           : kernels::bf16_to_f32(static_cast<kernels::bf16_bits>(bits));
  }
  return out;
}
/// What the device will see of x.
inline std::vector<float> rounded(kernels::dtype type, std::span<const float> x) {
  return decode(type, encode(type, x));
}

/// By the method of Box and Muller: std::normal_distribution, with its logarithms in long double, takes longer than
/// what is tested.
inline std::vector<float> random_normal(std::mt19937& rng, std::size_t n, float deviation = 1.0f) {
  std::vector<float> out(n);
  for (std::size_t i = 0; i < n; i += 2) {
    const float u = (static_cast<float>(rng() >> 8) + 1.0f) * 0x1p-24f, v = static_cast<float>(rng() >> 8) * 0x1p-24f;
    const float radius = deviation * std::sqrt(-2.0f * std::log(u)), angle = 6.28318531f * v;
    out[i] = radius * std::cos(angle);
    if (i + 1 < n) out[i + 1] = radius * std::sin(angle);
  }
  return out;
}

/// ||out - ref|| / ||ref||; infinite when out holds a NaN or an infinity.
template <class Ref>
double relative_error(std::span<const float> out, const std::vector<Ref>& ref) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < ref.size(); ++i) {
    if (!std::isfinite(out[i])) return std::numeric_limits<double>::infinity();
    const double d = static_cast<double>(out[i]) - static_cast<double>(ref[i]);
    error += d * d;
    norm += static_cast<double>(ref[i]) * static_cast<double>(ref[i]);
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}

/// In f64. (1 + tanh u) / 2 is written as a logistic, which loses nothing where tanh nears -1.
inline double activated(kernels::gpu::gate_activation a, double x) {
  switch (a) {
    case kernels::gpu::gate_activation::gelu_tanh:
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case kernels::gpu::gate_activation::gelu_erf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case kernels::gpu::gate_activation::silu:
      break;
  }
  return x / (1 + std::exp(-x));
}

}  // namespace troupe::test
