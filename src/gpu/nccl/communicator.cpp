#include "src/gpu/communicator.hpp"

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "src/base/log.hpp"
#include "src/gpu/nccl/nccl_library.hpp"

namespace troupe::gpu {
namespace {

using clock = std::chrono::steady_clock;

static_assert(sizeof(group_id) == sizeof(ncclUniqueId));

constexpr auto poll_pause = std::chrono::microseconds(50);
constexpr auto leave_limit = std::chrono::seconds(2);

/// What the thread that frees an aborted communicator shares with its owner.
struct ending {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
};

class nccl_communicator final : public communicator {
 public:
  nccl_communicator(const model::group_place& place, const nccl_library& nccl, std::chrono::milliseconds call_limit)
      : place_(place), nccl_(nccl), call_limit_(call_limit) {}

  /// Whoever destroys a rank does so after its last step was answered by all, so nothing is on its way; the orderly end
  /// (ncclCommFinalize) would wait for the other ranks, which leave when they like.
  ~nccl_communicator() override {
    if (comm_) end_by_abort();
    const std::shared_ptr<ending> e = ending_;
    if (!e) return;
    std::unique_lock lock(e->mutex);
    if (!e->changed.wait_for(lock, leave_limit, [&] { return e->done; }))
      log().warn("rank {}: NCCL does not let go of its group: it is left behind", place_.rank);
  }

  result<void> init(const group_id& id, std::chrono::milliseconds limit) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclUniqueId unique;
    std::memcpy(&unique, id.data(), sizeof unique);
    std::lock_guard lock(mutex_);
    const ncclResult_t code =
        nccl_.init(&comm_, static_cast<int>(place_.size), unique, static_cast<int>(place_.rank), &config);
    auto ok = settle(code, "ncclCommInitRankConfig", limit);
    if (!ok && comm_) end_by_abort();
    return ok;
  }

  const model::group_place& place() const override { return place_; }

  result<void> all_reduce(float* data, std::uint64_t n, cudaStream_t stream) override {
    std::lock_guard lock(mutex_);
    if (!comm_) return aborted();
    return settle(nccl_.all_reduce(data, data, n, ncclFloat, ncclSum, comm_, stream), "ncclAllReduce", call_limit_);
  }
  result<void> all_gather(const float* mine, float* parts, std::uint64_t n, cudaStream_t stream) override {
    std::lock_guard lock(mutex_);
    if (!comm_) return aborted();
    return settle(nccl_.all_gather(mine, parts, n, ncclFloat, comm_, stream), "ncclAllGather", call_limit_);
  }
  result<void> state() override {
    if (stop_.load()) return aborted();
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return {};  // somebody is in a call, which will tell
    if (!comm_) return aborted();
    ncclResult_t now = ncclSuccess;
    const ncclResult_t code = nccl_.async_error(comm_, &now);
    if (code != ncclSuccess) return wrong(code, "ncclCommGetAsyncError");
    return now == ncclSuccess || now == ncclInProgress ? result<void>() : wrong(now, "a collective");
  }
  void abort() noexcept override {
    try {
      stop_.store(true);
      if (peers_) peers_->give_up();
      std::lock_guard lock(mutex_);
      if (comm_) end_by_abort();
    } catch (const std::exception& e) {
      log().critical("rank {}: the group cannot be aborted: {}", place_.rank, e.what());
    }
  }

 private:
  failure wrong(ncclResult_t code, const char* call) const {
    return {errc::rank_failed, std::string(call) + ": " + nccl_.error_string(code)};
  }
  failure aborted() const { return {errc::rank_failed, "the group of ranks was aborted"}; }

  /// Waits until a call that was enqueued is settled.
  result<void> settle(ncclResult_t code, const char* call, std::chrono::milliseconds limit) {
    if (code == ncclSuccess) [[likely]]
      return {};
    if (code != ncclInProgress) return wrong(code, call);
    const clock::time_point end = clock::now() + limit;
    ncclResult_t now = ncclInProgress;
    for (;;) {
      if (const ncclResult_t asked = nccl_.async_error(comm_, &now); asked != ncclSuccess) return wrong(asked, call);
      if (now == ncclSuccess) return {};
      if (now != ncclInProgress) return wrong(now, call);
      if (stop_.load()) return aborted();
      if (clock::now() > end)
        return failure(errc::rank_failed, std::string(call) + ": the other ranks did not come within " +
                                              std::to_string(limit.count()) + " ms");
      std::this_thread::sleep_for(poll_pause);
    }
  }

  /// ncclCommAbort tells the kernels first and then waits for every graph that holds the communicator, so it gets a
  /// thread of its own.
  void end_by_abort() {
    ending_ = std::make_shared<ending>();
    std::thread([e = ending_, comm = std::exchange(comm_, nullptr), abort = nccl_.abort, device = current_device()] {
      cudaSetDevice(device);
      (void)abort(comm);
      std::lock_guard lock(e->mutex);
      e->done = true;
      e->changed.notify_all();
    }).detach();
  }
  static int current_device() {
    int d = 0;
    cudaGetDevice(&d);
    return d;
  }

  const model::group_place place_;
  const nccl_library& nccl_;
  const std::chrono::milliseconds call_limit_;
  std::mutex mutex_;  // around every call, its waiting included, which `stop_` ends
  std::atomic<bool> stop_{false};
  ncclComm_t comm_ = nullptr;
  std::shared_ptr<ending> ending_;
};

}  // namespace

result<group_id> make_group_id() {
  auto nccl = nccl_library::get();
  if (!nccl) return nccl.take_error();
  ncclUniqueId unique;
  if (const ncclResult_t code = (*nccl)->unique_id(&unique); code != ncclSuccess)
    return failure(errc::rank_failed, std::string("ncclGetUniqueId: ") + (*nccl)->error_string(code));
  group_id id;
  std::memcpy(id.data(), &unique, sizeof unique);
  return id;
}

std::string nccl_version() {
  auto nccl = nccl_library::get();
  int v = 0;
  if (!nccl || (*nccl)->version(&v) != ncclSuccess) return {};
  return std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

result<std::shared_ptr<communicator>> communicator::join(const model::group_place& place, const group_id& id,
                                                         std::chrono::milliseconds join_limit,
                                                         std::chrono::milliseconds call_limit) {
  auto nccl = nccl_library::get();
  if (!nccl) return nccl.take_error();
  auto c = std::make_shared<nccl_communicator>(place, **nccl, call_limit);
  if (auto ok = c->init(id, join_limit); !ok) return ok.take_error();
  return std::shared_ptr<communicator>(std::move(c));
}

}  // namespace troupe::gpu
