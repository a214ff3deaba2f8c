#include <troupe/error.hpp>

namespace troupe {
namespace {

class troupe_category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "troupe"; }
  std::string message(int value) const override {
    switch (static_cast<errc>(value)) {
      case errc::invalid_argument: return "invalid argument";
      case errc::invalid_file: return "invalid file";
      case errc::unsupported: return "unsupported";
      case errc::not_found: return "not found";
      case errc::context_exceeded: return "context exceeded";
      case errc::too_many_requests: return "too many requests";
      case errc::overloaded: return "overloaded";
      case errc::draining: return "shutting down";
      case errc::cancelled: return "cancelled";
      case errc::deadline_exceeded: return "deadline exceeded";
      case errc::rank_failed: return "rank failed";
      case errc::out_of_memory: return "out of memory";
      case errc::io_failed: return "input or output failed";
      case errc::internal: return "internal error";
    }
    return "unknown error";
  }
};

}  // namespace

const std::error_category& category() noexcept {
  static const troupe_category instance;
  return instance;
}

error::error(errc code, const std::string& message) : std::system_error(code, message), message_(message) {}
error::~error() = default;

}  // namespace troupe
