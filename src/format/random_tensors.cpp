#include "src/format/random_tensors.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "kernels/common/floats.hpp"
#include "kernels/common/philox.hpp"

namespace troupe::format {
namespace {

struct descriptor {
  int fd;
  ~descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

std::size_t up(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

std::size_t store(dtype type, float x, std::byte* to) {
  if (type == dtype::f32) {
    std::memcpy(to, &x, 4);
    return 4;
  }
  const std::uint16_t bits = type == dtype::f16 ? kernels::f32_to_f16(x) : kernels::f32_to_bf16(x);
  std::memcpy(to, &bits, 2);
  return 2;
}

/// `size` bytes, whole pages, of uniform values: 16 random bits each, 8 to a call of the generator.
void fill(dtype type, std::byte* to, std::size_t size) {
  const float scale = random_tensors::random_deviation * 1.7320508f / 32768.0f;  // a width of w has deviation w / sqrt(12)
  std::byte* const end = to + size;
  for (std::uint32_t i = 0; to < end; ++i) {
    const kernels::philox_words words = kernels::philox4x32_10({{i, 0, 0, 0}}, 0x5EEDu, 0);
    for (const std::uint32_t w : words.w)
      for (const std::uint32_t half : {w & 0xFFFF, w >> 16})
        to += store(type, (static_cast<float>(half) - 32767.5f) * scale, to);
  }
}

/// Which page of the pool a tensor begins with (FNV-1a).
std::size_t first_page(std::string_view name, std::size_t n_pages) {
  std::uint64_t h = 0xCBF29CE484222325u;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return static_cast<std::size_t>((h >> 17) % n_pages);
}

failure refused(const std::string& origin, const char* call) {
  return {errc::out_of_memory, origin + ": no room for random weights: " + call + " failed (" + std::generic_category().message(errno) + ")"};
}

}  // namespace

result<std::shared_ptr<const random_tensors>> random_tensors::make(std::vector<made_tensor> made, dtype type, std::string origin) {
  if (type != dtype::f32 && type != dtype::f16 && type != dtype::bf16)
    return failure(errc::invalid_argument, origin + ": random weights are F32, F16 or BF16, not " + std::string(kernels::name(type)));
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::shared_ptr<random_tensors> out(new random_tensors);
  out->origin_ = std::move(origin);
  out->made_ = std::move(made);

  const auto size_of = [type](const made_tensor& t) { return static_cast<std::size_t>(*kernels::bytes_of(type, t.shape.elements())); };
  std::size_t total = 0, longest_ones = 0;
  for (const made_tensor& t : out->made_) {
    if (t.ones) longest_ones = std::max(longest_ones, size_of(t));
    else total += up(size_of(t), page);
  }
  out->ones_.resize(longest_ones);
  for (std::size_t at = 0; at < longest_ones;) at += store(type, 1.0f, out->ones_.data() + at);

  const std::size_t pool = std::min(pool_bytes, total);
  const descriptor file{::memfd_create("troupe random weights", MFD_CLOEXEC)};
  if (total != 0) {
    if (file.fd < 0 || ::ftruncate(file.fd, static_cast<off_t>(pool)) != 0) return refused(out->origin_, "memfd_create");
    void* at = ::mmap(nullptr, pool, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, 0);
    if (at == MAP_FAILED) return refused(out->origin_, "mmap");
    fill(type, static_cast<std::byte*>(at), pool);
    ::munmap(at, pool);
    at = ::mmap(nullptr, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return refused(out->origin_, "mmap");
    out->base_ = static_cast<std::byte*>(at);
    out->bytes_ = total;
  }

  // A window is as many mappings as it holds pools, and one: some 2200 for 140 GB, of the 65530 that a process may have.
  std::byte* to = out->base_;
  for (const made_tensor& t : out->made_) {
    const std::size_t bytes = size_of(t);
    tensor_view view{t.name, type, t.shape, {out->ones_.data(), bytes}};
    if (!t.ones) {
      view.data = {to, bytes};
      std::size_t from = first_page(t.name, pool / page) * page;
      for (std::size_t left = up(bytes, page); left != 0; from = 0) {
        const std::size_t n = std::min(left, pool - from);
        if (::mmap(to, n, PROT_READ, MAP_SHARED | MAP_FIXED, file.fd, static_cast<off_t>(from)) == MAP_FAILED)
          return refused(out->origin_, "mmap");
        to += n;
        left -= n;
      }
    }
    if (!out->table_.add(view)) return failure(errc::invalid_argument, out->origin_ + ": tensor " + t.name + " occurs twice");
  }
  return std::shared_ptr<const random_tensors>(std::move(out));
}

random_tensors::~random_tensors() {
  if (base_) ::munmap(base_, bytes_);
}

}  // namespace troupe::format
