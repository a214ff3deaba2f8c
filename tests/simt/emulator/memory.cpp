// Memory of the card, pinned memory, and copies.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>

#include "simt/launch.hpp"
#include "tests/simt/emulator/errors.hpp"
#include "tests/simt/emulator/stream.hpp"

using namespace simt;

namespace {

constexpr std::size_t alignment = 256;
constexpr std::size_t most_poisoned = std::size_t{256} << 20;  // larger ones keep their zeros, which cost nothing

struct region {
  card* on;  ///< null: pinned host memory
  void* mapped;
  std::size_t mapped_bytes, bytes;
};
std::map<std::uintptr_t, region>& regions() {  // by address, under the cards' mutex
  static auto& all = *new std::map<std::uintptr_t, region>;
  return all;
}

/// Mappings that were freed, by size: pages that are there need not be brought in again.
std::multimap<std::size_t, void*>& spare() {  // under the cards' mutex
  static auto& all = *new std::multimap<std::size_t, void*>;
  return all;
}
constexpr std::size_t most_kept = std::size_t{64} << 20;  // a mapping

/// Ends where a page ends that nobody may touch, but for what the alignment takes.
cudaError_t allocate(void** out, std::size_t bytes, card* on) {
  if (captures()) return told(cudaErrorStreamCaptureUnsupported);
  const std::size_t page = static_cast<std::size_t>(getpagesize());
  const std::size_t room = (bytes + alignment - 1) / alignment * alignment, pages = (room + page - 1) / page * page;
  std::lock_guard lock(the_cards().mutex);
  std::size_t total = 0, free = 0;
  if (on) {
    if (on->broken != cudaSuccess) return told(on->broken);
    total = std::size_t{8} << 30;
    free = total - on->used;
    if (room > free) return told(cudaErrorMemoryAllocation);
  }
  void* base = nullptr;
  if (const auto kept = spare().find(pages + page); kept != spare().end()) {
    base = kept->second;
    spare().erase(kept);
  } else {
    base = mmap(nullptr, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return told(cudaErrorMemoryAllocation);
    mprotect(static_cast<unsigned char*>(base) + pages, page, PROT_NONE);
  }
  auto* const end = static_cast<unsigned char*>(base) + pages;
  *out = end - room;
  if (bytes <= most_poisoned) std::memset(*out, 0xff, room);  // nobody may count on what lies there
  if (on) on->used += room;
  regions()[reinterpret_cast<std::uintptr_t>(*out)] = {on, base, pages + page, room};
  return cudaSuccess;
}

cudaError_t release(void* p) {
  if (!p) return cudaSuccess;
  for (const auto& k : the_cards().all) (void)wait_for_card(*k, false);  // as cudaFree does, though for its card only
  std::lock_guard lock(the_cards().mutex);
  const auto found = regions().find(reinterpret_cast<std::uintptr_t>(p));
  if (found == regions().end()) return told(cudaErrorInvalidValue);
  const region r = found->second;
  regions().erase(found);
  if (r.on) r.on->used -= r.bytes;
  if (r.mapped_bytes <= most_kept)
    spare().emplace(r.mapped_bytes, r.mapped);
  else
    munmap(r.mapped, r.mapped_bytes);
  return cudaSuccess;
}

/// Whether it is memory that a card may read whenever it likes.
bool is_known(const void* p) {
  std::lock_guard lock(the_cards().mutex);
  auto after = regions().upper_bound(reinterpret_cast<std::uintptr_t>(p));
  if (after == regions().begin()) return false;
  const auto& [address, r] = *--after;
  return reinterpret_cast<std::uintptr_t>(p) < address + r.bytes;
}

}  // namespace

cudaError_t cudaMalloc(void** p, std::size_t bytes) { return allocate(p, bytes, &current_card()); }
cudaError_t cudaFree(void* p) { return release(p); }
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) { return allocate(p, bytes, nullptr); }
cudaError_t cudaMallocHost(void** p, std::size_t bytes) { return allocate(p, bytes, nullptr); }
cudaError_t cudaFreeHost(void* p) { return release(p); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t s) {
  if (is_known(from))
    return enqueue(s, [=]() -> std::string {
      std::memcpy(to, from, bytes);
      return {};
    });
  // Of memory that is not pinned a copy is made at once.
  const auto* const bytes_from = static_cast<const unsigned char*>(from);
  return enqueue(s, [to, held = std::vector<unsigned char>(bytes_from, bytes_from + bytes)]() -> std::string {
    std::memcpy(to, held.data(), held.size());
    return {};
  });
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  if (captures()) return told(cudaErrorStreamCaptureUnsupported);
  if (const cudaError_t code = wait_for_card(current_card(), true)) return told(code);
  if (bytes) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind, cudaStream_t s) {
  return enqueue(s, [=]() -> std::string {
    for (std::size_t i = 0; i < height; ++i)
      std::memcpy(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
    return {};
  });
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t s) {
  return enqueue(s, [=]() -> std::string {
    std::memset(to, value, bytes);
    return {};
  });
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  if (captures()) return told(cudaErrorStreamCaptureUnsupported);
  return cudaMemsetAsync(to, value, bytes, nullptr);
}
