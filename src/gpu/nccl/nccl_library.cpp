#include "src/gpu/nccl/nccl_library.hpp"

#include <string>

#include "src/gpu/dynamic_library.hpp"

namespace troupe::gpu {
namespace {

struct loaded {
  nccl_library library{};
  std::string problem;
};

loaded load() {
  loaded l;
  dynamic_library file("libnccl.so." + std::to_string(NCCL_MAJOR));
  file.look_up("ncclGetVersion", l.library.version);
  file.look_up("ncclGetErrorString", l.library.error_string);
  file.look_up("ncclGetUniqueId", l.library.unique_id);
  file.look_up("ncclCommInitRankConfig", l.library.init);
  file.look_up("ncclCommGetAsyncError", l.library.async_error);
  file.look_up("ncclCommAbort", l.library.abort);
  file.look_up("ncclAllReduce", l.library.all_reduce);
  file.look_up("ncclAllGather", l.library.all_gather);
  l.problem = file.problem();
  return l;
}

}  // namespace

result<const nccl_library*> nccl_library::get() {
  static const loaded l = load();
  if (!l.problem.empty())
    return failure(errc::not_found, "NCCL cannot be loaded: " + l.problem + ": install NCCL " +
                                        std::to_string(NCCL_MAJOR) + " or name its folder in LD_LIBRARY_PATH");
  return &l.library;
}

}  // namespace troupe::gpu
