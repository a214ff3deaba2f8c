#include "src/gpu/communicator.hpp"

namespace troupe::gpu {
namespace {

failure without() {
  return {errc::unsupported, "this build has no NCCL: build where nccl.h is, or use one GPU (tensor-parallel-size 1)"};
}

}  // namespace

result<group_id> make_group_id() { return without(); }
std::string nccl_version() { return {}; }
result<std::shared_ptr<communicator>> communicator::join(const model::group_place&, const group_id&,
                                                         std::chrono::milliseconds, std::chrono::milliseconds) {
  return without();
}

}  // namespace troupe::gpu
