#pragma once
#include <nccl.h>

#include "src/base/result.hpp"

namespace troupe::gpu {

/// NCCL, loaded when ranks first form a group: a machine with one card needs none.
struct nccl_library {
  decltype(&ncclGetVersion) version;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetUniqueId) unique_id;
  decltype(&ncclCommInitRankConfig) init;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclAllGather) all_gather;

  /// The one of this process; loaded at the first call, never unloaded. Any thread. Errors: not_found.
  static result<const nccl_library*> get();
};

}  // namespace troupe::gpu
