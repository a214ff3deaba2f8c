// NCCL among emulated cards: an operation is done by whichever rank's stream comes to it last.
#include "src/gpu/nccl/nccl_library.hpp"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "simt/launch.hpp"

namespace {

/// What one rank brings to an operation.
struct part {
  bool reduces = false;
  const float* from = nullptr;
  float* to = nullptr;
  std::size_t n = 0;
};

/// Ranks with the same id.
struct group {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<part> parts;
  std::size_t n_joined = 0, n_here = 0;  ///< n_here: at the operation that is being waited for
  std::uint64_t n_done = 0;              ///< operations
};

/// One rank's end, which streams and graphs keep after its handle is gone.
struct end {
  std::shared_ptr<group> ranks;
  std::size_t rank = 0;
  bool aborted = false;  ///< under the group's mutex
};

std::shared_ptr<group> group_of(const ncclUniqueId& id) {
  static auto& mutex = *new std::mutex;
  static auto& all = *new std::map<std::string, std::weak_ptr<group>>;
  std::lock_guard lock(mutex);
  auto& known = all[std::string(id.internal, sizeof id.internal)];
  auto g = known.lock();
  if (!g) known = g = std::make_shared<group>();
  return g;
}

/// All have come: the sum in the order of ranks, or the parts one behind the other. Ranks that disagree on what it is
/// would hang or corrupt memory on a card; here they are told.
std::string perform(const std::vector<part>& parts) {
  for (const part& p : parts)
    if (p.reduces != parts[0].reduces || p.n != parts[0].n) return "ranks are at different collectives";
  const std::size_t n = parts[0].n, size = parts.size();
  std::vector<float> whole(parts[0].reduces ? n : n * size);
  for (std::size_t r = 0; r < size; ++r)
    if (!parts[0].reduces)
      std::copy_n(parts[r].from, n, whole.begin() + static_cast<std::ptrdiff_t>(r * n));
    else
      for (std::size_t i = 0; i < n; ++i) whole[i] = r == 0 ? parts[r].from[i] : whole[i] + parts[r].from[i];
  for (const part& p : parts) std::memcpy(p.to, whole.data(), whole.size() * sizeof(float));
  return {};
}

/// On a stream's thread. After an abort nobody waits, and what is in memory is nobody's.
std::string meet(const std::shared_ptr<end>& e, const part& mine) {
  group& g = *e->ranks;
  std::unique_lock lock(g.mutex);
  if (e->aborted) return {};
  g.parts[e->rank] = mine;
  if (++g.n_here == g.parts.size()) {
    const std::string failure = perform(g.parts);
    g.n_here = 0;
    ++g.n_done;
    g.changed.notify_all();
    return failure;
  }
  const std::uint64_t before = g.n_done;
  g.changed.wait(lock, [&] { return g.n_done != before || e->aborted; });
  return {};
}

}  // namespace

struct ncclComm {
  std::shared_ptr<end> own;
};

namespace {

ncclResult_t enqueue(const part& p, ncclComm_t c, cudaStream_t s) {
  return simt::enqueue(s, [e = c->own, p] { return meet(e, p); }) == cudaSuccess ? ncclSuccess : ncclInvalidUsage;
}

}  // namespace

ncclResult_t ncclGetVersion(int* v) {
  *v = 0;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t code) { return code == ncclSuccess ? "no error" : "a wrong call"; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::mutex mutex;
  static int next = 0;
  std::lock_guard lock(mutex);
  *id = {};
  const std::string text = "group " + std::to_string(++next);
  std::memcpy(id->internal, text.data(), text.size());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* out, int n_ranks, ncclUniqueId id, int rank, ncclConfig_t*) {
  if (n_ranks < 1 || rank < 0 || rank >= n_ranks) return ncclInvalidArgument;
  auto own = std::make_shared<end>();
  own->ranks = group_of(id);
  own->rank = static_cast<std::size_t>(rank);
  std::lock_guard lock(own->ranks->mutex);
  own->ranks->parts.resize(static_cast<std::size_t>(n_ranks));
  ++own->ranks->n_joined;
  *out = new ncclComm{own};
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t* now) {
  std::lock_guard lock(c->own->ranks->mutex);
  *now = c->own->ranks->n_joined == c->own->ranks->parts.size() ? ncclSuccess : ncclInProgress;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t c) {
  {
    std::lock_guard lock(c->own->ranks->mutex);
    c->own->aborted = true;
    c->own->ranks->changed.notify_all();
  }
  delete c;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t n, ncclDataType_t, ncclRedOp_t, ncclComm_t c,
                           cudaStream_t s) {
  return enqueue({true, static_cast<const float*>(from), static_cast<float*>(to), n}, c, s);
}
ncclResult_t ncclAllGather(const void* from, void* to, std::size_t n_each, ncclDataType_t, ncclComm_t c,
                           cudaStream_t s) {
  return enqueue({false, static_cast<const float*>(from), static_cast<float*>(to), n_each}, c, s);
}

namespace troupe::gpu {

result<const nccl_library*> nccl_library::get() {
  static const nccl_library emulated{ncclGetVersion,        ncclGetErrorString, ncclGetUniqueId, ncclCommInitRankConfig,
                                     ncclCommGetAsyncError, ncclCommAbort,      ncclAllReduce,   ncclAllGather};
  return &emulated;
}

}  // namespace troupe::gpu
