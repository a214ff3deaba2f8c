#pragma once
#include <troupe/request.hpp>

namespace troupe::cli {

inline const char* name_of(finish_reason reason) {
  switch (reason) {
    case finish_reason::stop: return "stop";
    case finish_reason::length: return "length";
    case finish_reason::cancelled: return "cancelled";
    case finish_reason::error: return "error";
    case finish_reason::none: break;
  }
  return "none";
}

}  // namespace troupe::cli
