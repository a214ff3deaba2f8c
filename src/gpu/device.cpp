#include "src/gpu/device.hpp"

#include <cstring>

namespace troupe::gpu {
namespace {

device_info describe(int ordinal, const cudaDeviceProp& p) {
  return {ordinal,
          p.name,
          static_cast<std::uint32_t>(p.major),
          static_cast<std::uint32_t>(p.minor),
          static_cast<std::uint32_t>(p.multiProcessorCount),
          p.totalGlobalMem,
          std::to_array(p.uuid.bytes)};
}

std::string size_text(std::uint64_t bytes) { return std::to_string((bytes + (1u << 20) - 1) >> 20) + " MiB"; }

}  // namespace

std::vector<device_info> devices() {
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess) {
    (void)cudaGetLastError();  // no driver, no card: not an error here
    return {};
  }
  std::vector<device_info> out;
  for (int i = 0; i < n; ++i) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, i) == cudaSuccess && p.major >= 8) out.push_back(describe(i, p));
  }
  return out;
}

result<device_info> use_device(int ordinal) {
  cudaDeviceProp p;
  if (auto ok = check(cudaGetDeviceProperties(&p, ordinal), "cudaGetDeviceProperties"); !ok) {
    (void)cudaGetLastError();
    return failure(errc::not_found,
                   "CUDA device " + std::to_string(ordinal) + " cannot be used: " + ok.error().message);
  }
  if (p.major < 8)
    return failure(errc::unsupported, "CUDA device " + std::to_string(ordinal) + " (" + p.name +
                                          ") has compute capability " + std::to_string(p.major) + "." +
                                          std::to_string(p.minor) + ": 8.0 or later is needed");
  if (auto ok = check(cudaSetDevice(ordinal), "cudaSetDevice"); !ok) return ok.take_error();
  return describe(ordinal, p);
}

result<stream> make_stream() {
  cudaStream_t s = nullptr;
  if (auto ok = check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); !ok)
    return ok.take_error();
  return stream(s);
}

result<event> make_event() {
  cudaEvent_t e = nullptr;
  if (auto ok = check(cudaEventCreate(&e), "cudaEventCreate"); !ok) return ok.take_error();
  return event(e);
}

result<memory> memory::on_device(std::uint64_t bytes, const char* what) {
  memory m;
  void* p = nullptr;
  if (const cudaError_t code = cudaMalloc(&p, bytes ? bytes : 1); code != cudaSuccess) {
    (void)cudaGetLastError();
    failure f = cuda_failure(code, "cudaMalloc");
    f.message = "no " + size_text(bytes) + " of device memory for " + what + ": " + f.message;
    return f;
  }
  m.data_ = static_cast<std::byte*>(p);
  m.size_ = bytes;
  return m;
}

result<memory> memory::pinned(std::uint64_t bytes, const char* what) {
  memory m;
  void* p = nullptr;
  if (const cudaError_t code = cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocPortable | cudaHostAllocMapped);
      code != cudaSuccess) {
    (void)cudaGetLastError();
    failure f = cuda_failure(code, "cudaHostAlloc");
    f.message = "no " + size_text(bytes) + " of pinned memory for " + what + ": " + f.message;
    return f;
  }
  m.data_ = static_cast<std::byte*>(p);
  m.size_ = bytes;
  m.pinned_ = true;
  std::memset(p, 0, bytes);
  return m;
}

memory::~memory() {
  if (data_) pinned_ ? cudaFreeHost(data_) : cudaFree(data_);
}

}  // namespace troupe::gpu
