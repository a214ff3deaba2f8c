#pragma once
#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "src/base/memory_layout.hpp"
#include "src/gpu/check.hpp"

/// Owners of what CUDA hands out. All move-only; a moved-from one owns nothing.
namespace troupe::gpu {

struct device_info {
  int ordinal = 0;
  std::string name;
  std::uint32_t major = 0, minor = 0;  ///< compute capability
  std::uint32_t n_sms = 0;
  std::uint64_t total_bytes = 0;
  std::array<char, 16> uuid{};  ///< of the card, the same in every process
};

/// The cards of a compute capability that the kernels know; empty where there is no driver or no card.
std::vector<device_info> devices();
/// Makes the card current on the calling thread. Errors: not_found, unsupported.
result<device_info> use_device(int ordinal);

template <class Handle, cudaError_t (*Destroy)(Handle)>
class owner {
 public:
  owner() = default;
  explicit owner(Handle h) : handle_(h) {}
  owner(owner&& o) noexcept : handle_(std::exchange(o.handle_, nullptr)) {}
  owner& operator=(owner&& o) noexcept {
    std::swap(handle_, o.handle_);
    return *this;
  }
  ~owner() {
    if (handle_) Destroy(handle_);
  }
  Handle get() const { return handle_; }
  operator Handle() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

 private:
  Handle handle_ = nullptr;
};
using stream = owner<cudaStream_t, cudaStreamDestroy>;
using event = owner<cudaEvent_t, cudaEventDestroy>;
using graph_exec = owner<cudaGraphExec_t, cudaGraphExecDestroy>;
result<stream> make_stream();
result<event> make_event();

/// Device memory taken once, or pinned host memory.
class memory {
 public:
  static result<memory> on_device(std::uint64_t bytes, const char* what);
  /// Mapped, so that kernels reach it by the same address; zeroed.
  static result<memory> pinned(std::uint64_t bytes, const char* what);
  memory() = default;
  memory(memory&& o) noexcept { swap(o); }
  memory& operator=(memory&& o) noexcept {
    swap(o);
    return *this;
  }
  ~memory();

  std::byte* data() const { return data_; }
  std::uint64_t size() const { return size_; }
  template <class T>
  T* at(std::uint64_t offset) const {
    return reinterpret_cast<T*>(data_ + offset);
  }

 private:
  void swap(memory& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    std::swap(pinned_, o.pinned_);
  }
  std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
  bool pinned_ = false;
};

/// Of memory to be, aligned as cudaMalloc aligns.
using layout = memory_layout<256>;

}  // namespace troupe::gpu
