#include "actors/runtime/fault.hpp"

#include "src/base/log.hpp"

namespace troupe::runtime {

std::string fault::what() const {
  if (!error) return "no exception";
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "an exception of an unknown type";
  }
}

void report(const fault_handler& handler, const fault& f) noexcept {
  try {
    if (handler) return handler(f);
    log().error("{}: a handler threw: {}", f.where, f.what());
  } catch (...) {
    // Nothing is left to tell it to.
  }
}

}  // namespace troupe::runtime
