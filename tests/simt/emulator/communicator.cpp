// Takes the place of src/gpu/nccl: a group's ranks are threads of this process, and a collective is a meeting of their
// streams. Sums are added in the order of ranks.
#include "src/gpu/communicator.hpp"

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "simt/launch.hpp"

namespace troupe::gpu {
namespace {

/// What the ranks of a group share.
struct meeting_place {
  std::mutex mutex;
  std::condition_variable changed;
  std::uint32_t n_joined = 0;
  bool over = false;
  std::uint32_t n_here = 0;
  std::uint64_t round = 0;
  std::vector<std::vector<float>> brought, taken;  ///< by rank: of the round that fills, and of the last full one

  /// Brings this rank's part and waits for the others'. False: the group is over.
  bool meet(std::uint32_t rank, const float* part, std::uint64_t n, std::vector<std::vector<float>>& all) {
    std::unique_lock lock(mutex);
    brought[rank].assign(part, part + n);
    const std::uint64_t mine = round;
    if (++n_here == brought.size()) {
      taken = brought;
      n_here = 0;
      ++round;
      changed.notify_all();
    }
    changed.wait(lock, [&] { return over || round != mine; });
    all = taken;  // the next round is full only when this rank has come to it
    return round != mine;
  }
};

std::mutex places_mutex;
std::map<group_id, std::weak_ptr<meeting_place>>& places() {
  static std::map<group_id, std::weak_ptr<meeting_place>> all;
  return all;
}

class emulated_communicator final : public communicator {
 public:
  emulated_communicator(const model::group_place& place, std::shared_ptr<meeting_place> where)
      : place_(place), where_(std::move(where)) {}
  ~emulated_communicator() override {
    if (stopped_) end();
  }

  const model::group_place& place() const override { return place_; }
  result<void> all_reduce(float* data, std::uint64_t n, cudaStream_t stream) override {
    return enqueue(stream, [where = where_, rank = place_.rank, data, n]() -> std::string {
      std::vector<std::vector<float>> all;
      if (!where->meet(rank, data, n, all)) return {};
      std::memcpy(data, all[0].data(), n * sizeof(float));
      for (std::size_t r = 1; r < all.size(); ++r)
        for (std::uint64_t i = 0; i < n; ++i) data[i] += all[r][i];
      return {};
    });
  }
  result<void> all_gather(const float* mine, float* parts, std::uint64_t n, cudaStream_t stream) override {
    return enqueue(stream, [where = where_, rank = place_.rank, mine, parts, n]() -> std::string {
      std::vector<std::vector<float>> all;
      if (!where->meet(rank, mine, n, all)) return {};
      for (std::size_t r = 0; r < all.size(); ++r) std::memcpy(parts + r * n, all[r].data(), n * sizeof(float));
      return {};
    });
  }
  result<void> state() override { return stopped_ ? aborted() : result<void>(); }
  void abort() noexcept override {
    stopped_ = true;
    if (peers_) peers_->give_up();
    end();
  }

 private:
  static failure aborted() { return {errc::rank_failed, "the group of ranks was aborted"}; }
  result<void> enqueue(cudaStream_t stream, std::function<std::string()> work) {
    if (stopped_) return aborted();
    return check(simt::enqueue(stream, std::move(work)), "a collective");
  }
  void end() {
    std::lock_guard lock(where_->mutex);
    where_->over = true;
    where_->changed.notify_all();
  }

  model::group_place place_;
  std::shared_ptr<meeting_place> where_;
  std::atomic<bool> stopped_{false};
};

}  // namespace

result<group_id> make_group_id() {
  static std::atomic<std::uint64_t> last{0};
  group_id id{};
  const std::uint64_t number = ++last;
  std::memcpy(id.data(), &number, sizeof number);
  return id;
}
std::string nccl_version() { return {}; }

result<std::shared_ptr<communicator>> communicator::join(const model::group_place& place, const group_id& id,
                                                         std::chrono::milliseconds join_limit,
                                                         std::chrono::milliseconds) {
  std::shared_ptr<meeting_place> where;
  {
    std::lock_guard lock(places_mutex);
    where = places()[id].lock();
    if (!where) {
      where = std::make_shared<meeting_place>();
      where->brought.resize(place.size);
      places()[id] = where;
    }
  }
  std::unique_lock lock(where->mutex);
  ++where->n_joined;
  where->changed.notify_all();
  if (!where->changed.wait_for(lock, join_limit, [&] { return where->n_joined == place.size; }))
    return failure(errc::rank_failed, "not all ranks of the group have come");
  return std::shared_ptr<communicator>(std::make_shared<emulated_communicator>(place, where));
}

}  // namespace troupe::gpu
