#include "src/format/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

namespace troupe::format {
namespace {

failure refused(const std::string& path, const char* call, int error) {
  const std::string why = std::generic_category().message(error);
  if (error == ENOENT || error == ENOTDIR) return {errc::not_found, path + ": no such file: check the path"};
  if (error == EACCES || error == EPERM)
    return {errc::invalid_argument, path + ": may not be read (" + why + "): check its permissions"};
  return {errc::io_failed, path + ": " + call + " failed (" + why + ")"};
}

struct descriptor {
  int fd;
  ~descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

result<mapped_file> mapped_file::open(const std::filesystem::path& where) {
  mapped_file file;
  file.path_ = where.string();
  // O_NONBLOCK: opening a FIFO would wait for a writer before fstat could refuse it.
  const descriptor fd{::open(where.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (fd.fd < 0) return refused(file.path_, "open", errno);
  struct stat status{};
  if (::fstat(fd.fd, &status) != 0) return refused(file.path_, "fstat", errno);
  if (!S_ISREG(status.st_mode)) {
    return failure{errc::invalid_argument, file.path_ + ": is not a regular file: give the path of a model file"};
  }
  if (status.st_size == 0) return file;  // mmap refuses length 0
  const auto size = static_cast<std::size_t>(status.st_size);
  void* at = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.fd, 0);
  if (at == MAP_FAILED) return refused(file.path_, "mmap", errno);
  file.data_ = static_cast<const std::byte*>(at);
  file.size_ = size;
  return file;
}

mapped_file::~mapped_file() { reset(); }

mapped_file::mapped_file(mapped_file&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)), path_(std::move(other.path_)) {}

mapped_file& mapped_file::operator=(mapped_file&& other) noexcept {
  if (this != &other) {
    reset();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    path_ = std::move(other.path_);
  }
  return *this;
}

void mapped_file::reset() noexcept {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  data_ = nullptr;
  size_ = 0;
}

bool mapped_file::contains(std::span<const std::byte> range) const noexcept {
  const auto begin = reinterpret_cast<std::uintptr_t>(data_);
  const auto at = reinterpret_cast<std::uintptr_t>(range.data());
  return data_ != nullptr && at >= begin && at - begin <= size_ && range.size() <= size_ - (at - begin);
}

void mapped_file::advise(std::span<const std::byte> range, access how) const noexcept {
  if (range.empty() || !contains(range)) return;
  int advice = MADV_NORMAL;
  switch (how) {
    case access::normal:
      advice = MADV_NORMAL;
      break;
    case access::sequential:
      advice = MADV_SEQUENTIAL;
      break;
    case access::random:
      advice = MADV_RANDOM;
      break;
    case access::will_need:
      advice = MADV_WILLNEED;
      break;
    case access::dont_need:
      advice = MADV_DONTNEED;
      break;
  }
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  auto begin = reinterpret_cast<std::uintptr_t>(range.data());
  auto end = begin + range.size();
  if (how == access::dont_need) {
    begin = (begin + page - 1) & ~(page - 1);
    end &= ~(page - 1);
  } else {
    begin &= ~(page - 1);  // the mapping begins on a page, so this stays inside it
  }
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

}  // namespace troupe::format
