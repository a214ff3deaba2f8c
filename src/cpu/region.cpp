#include "src/cpu/region.hpp"

#include <sys/mman.h>

#include <string>

namespace troupe::cpu {
namespace {

constexpr std::uint64_t huge_page = 2u << 20;
constexpr std::uint64_t round_up(std::uint64_t bytes) { return (bytes + huge_page - 1) / huge_page * huge_page; }

}  // namespace

result<region> region::take(std::uint64_t bytes, const char* what) {
  region r;
  if (bytes == 0) return r;
  const failure refused(errc::out_of_memory, std::to_string(bytes >> 20) + " MiB for " + what +
                                                 " were refused by the system: lower the cache size or the number of "
                                                 "sequences, or free memory");
  if (bytes > (std::uint64_t{1} << 46)) return refused;
  const std::uint64_t size = round_up(bytes);
  void* p = mmap(nullptr, size + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return refused;
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  const std::uint64_t before = round_up(address) - address;
  if (before) munmap(p, before);
  if (before < huge_page) munmap(reinterpret_cast<void*>(address + before + size), huge_page - before);
  r.data_ = reinterpret_cast<std::byte*>(address + before);
  r.size_ = size;
  madvise(r.data_, size, MADV_HUGEPAGE);
  return r;
}

region::~region() {
  if (data_) munmap(data_, size_);
}

}  // namespace troupe::cpu
