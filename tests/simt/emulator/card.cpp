// The card's properties, errors and launches.
#include <cxxabi.h>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "simt/block.hpp"
#include "simt/launch.hpp"
#include "tests/simt/emulator/errors.hpp"
#include "tests/simt/emulator/stream.hpp"

using namespace simt;

namespace {

// Of sm_80, so that dependent launches are off; shared memory as on larger cards, so that every form of a kernel runs.
constexpr int n_sms = 4, capability_major = 8, capability_minor = 0;
constexpr int most_shared_bytes = 227 << 10, plain_shared_bytes = 48 << 10, shared_bytes_of_sm = 228 << 10;
constexpr int most_threads = 1024, threads_of_sm = 2048, most_blocks_of_sm = 32;
constexpr std::size_t memory_bytes = std::size_t{8} << 30;

thread_local cudaError_t last_error = cudaSuccess;

std::map<const void*, int>& allowed_shared_bytes() {  // under the cards' mutex
  static auto& all = *new std::map<const void*, int>;
  return all;
}

std::string readable(const char* name) {
  int status = 0;
  char* const text = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string out = status == 0 ? text : name;
  std::free(text);
  return out;
}

bool exists(int device) { return device >= 0 && static_cast<std::size_t>(device) < the_cards().all.size(); }

}  // namespace

namespace simt {

cudaError_t told(cudaError_t code) {
  if (code != cudaSuccess) last_error = code;
  return code;
}

cudaError_t launch(const cudaLaunchConfig_t& c, const void* kernel, const char* name, std::function<void()> body) {
  const dim3 g = c.gridDim, b = c.blockDim;
  const std::uint64_t threads = std::uint64_t{b.x} * b.y * b.z;
  if (threads == 0 || threads > most_threads || g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 ||
      g.z > 65535)
    return told(cudaErrorInvalidConfiguration);
  {
    std::lock_guard lock(the_cards().mutex);
    const auto allowed = allowed_shared_bytes().find(kernel);
    const int most =
        allowed == allowed_shared_bytes().end() ? plain_shared_bytes : std::max(plain_shared_bytes, allowed->second);
    if (c.dynamicSmemBytes > static_cast<std::size_t>(most)) return told(cudaErrorInvalidValue);
  }
  return enqueue(c.stream, [g, b, name, bytes = c.dynamicSmemBytes, body = std::move(body)]() -> std::string {
    for (unsigned z = 0; z < g.z; ++z)
      for (unsigned y = 0; y < g.y; ++y)
        for (unsigned x = 0; x < g.x; ++x)
          if (std::string failure = run_block(body, g, b, {x, y, z}, bytes); !failure.empty())
            return "a kernel of type " + readable(name) + ": " + failure;
    return {};
  });
}

cudaError_t enqueue(cudaStream_t s, std::function<std::string()> what) {
  if (the_cards().all.empty()) return told(cudaErrorInvalidDevice);
  return told(submit(state_of(s), std::move(what)));
}

cudaError_t set_most_shared_bytes(const void* kernel, int bytes) {
  if (bytes < 0 || bytes > most_shared_bytes) return told(cudaErrorInvalidValue);
  std::lock_guard lock(the_cards().mutex);
  allowed_shared_bytes()[kernel] = bytes;
  return cudaSuccess;
}

/// As if no kernel were short of registers.
cudaError_t blocks_per_sm(int* blocks, int threads, std::size_t shared_bytes) {
  if (threads <= 0 || threads > most_threads) return told(cudaErrorInvalidValue);
  const int by_threads = threads_of_sm / ((threads + 31) / 32 * 32);
  const int by_memory = shared_bytes_of_sm / (static_cast<int>(shared_bytes) + 1024);
  *blocks = std::min({by_threads, by_memory, most_blocks_of_sm});
  return cudaSuccess;
}

}  // namespace simt

const char* cudaGetErrorName(cudaError_t code) {
  switch (code) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorPeerAccessAlreadyEnabled:
      return "cudaErrorPeerAccessAlreadyEnabled";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
  }
  return "cudaErrorUnknown";
}
const char* cudaGetErrorString(cudaError_t code) {
  return code == cudaErrorLaunchFailure ? "a kernel failed, as standard error says" : cudaGetErrorName(code);
}
cudaError_t cudaGetLastError() {
  const cudaError_t code = std::exchange(last_error, cudaSuccess);
  if (the_cards().all.empty()) return code;
  std::lock_guard lock(the_cards().mutex);
  return current_card().broken != cudaSuccess ? current_card().broken : code;
}

cudaError_t cudaGetDeviceCount(int* n) {
  *n = static_cast<int>(the_cards().all.size());
  return *n > 0 ? cudaSuccess : told(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* device) {
  if (the_cards().all.empty()) return told(cudaErrorInvalidDevice);
  *device = current_card().number;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (!exists(device)) return told(cudaErrorInvalidDevice);
  set_current_card(device);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (!exists(device)) return told(cudaErrorInvalidDevice);
  *p = {};
  std::strcpy(p->name, "an emulated card");
  p->uuid.bytes[0] = static_cast<char>(device + 1);
  p->totalGlobalMem = memory_bytes;
  p->major = capability_major;
  p->minor = capability_minor;
  p->multiProcessorCount = n_sms;
  p->warpSize = 32;
  p->maxThreadsPerBlock = most_threads;
  p->sharedMemPerBlock = plain_shared_bytes;
  p->sharedMemPerBlockOptin = most_shared_bytes;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!exists(device)) return told(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = n_sms;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = capability_major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = capability_minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = most_shared_bytes;
      return cudaSuccess;
  }
  return told(cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  std::lock_guard lock(the_cards().mutex);
  *total = memory_bytes;
  *free = memory_bytes - current_card().used;
  return cudaSuccess;
}

/// All cards' memory is the process's.
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!exists(device) || !exists(peer)) return told(cudaErrorInvalidDevice);
  *can = device != peer;
  return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  return exists(peer) && peer != current_card().number ? cudaSuccess : told(cudaErrorInvalidDevice);
}
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t*, void*) { return told(cudaErrorNotSupported); }
cudaError_t cudaIpcOpenMemHandle(void**, cudaIpcMemHandle_t, unsigned) { return told(cudaErrorNotSupported); }
cudaError_t cudaIpcCloseMemHandle(void*) { return told(cudaErrorNotSupported); }
