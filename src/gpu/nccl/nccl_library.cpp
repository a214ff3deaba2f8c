#include "src/gpu/nccl/nccl_library.hpp"

#include <string>

#include "src/gpu/dynamic_library.hpp"

namespace troupe::gpu {
namespace {

void look_up(dynamic_library& file, nccl_library& l) {
  file.look_up("ncclGetVersion", l.version);
  file.look_up("ncclGetErrorString", l.error_string);
  file.look_up("ncclGetUniqueId", l.unique_id);
  file.look_up("ncclCommInitRankConfig", l.init);
  file.look_up("ncclCommGetAsyncError", l.async_error);
  file.look_up("ncclCommAbort", l.abort);
  file.look_up("ncclAllReduce", l.all_reduce);
  file.look_up("ncclAllGather", l.all_gather);
}

}  // namespace

result<const nccl_library*> nccl_library::get() {
  static const std::string version = std::to_string(NCCL_MAJOR);
  static const auto library = load_library(
      "libnccl.so." + version, "NCCL", "install NCCL " + version + " or name its folder in LD_LIBRARY_PATH", look_up);
  if (!library) return library.error();
  return &*library;
}

}  // namespace troupe::gpu
