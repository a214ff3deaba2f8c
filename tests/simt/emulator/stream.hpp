#pragma once
#include <cuda_runtime_api.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

/// Streams: queues, each with a thread to itself. One mutex and one condition for all of them, since they are few.
namespace simt {

struct card;

/// Work, in order. Empty, or what went wrong.
using work = std::function<std::string()>;

/// What a stream's thread and its handle share.
struct stream_state {
  card* on = nullptr;
  bool blocking = true;  ///< waits for the default stream, and that for it
  std::uint64_t submitted = 0, done = 0;
  struct entry {
    work what;
    std::vector<std::pair<std::shared_ptr<stream_state>, std::uint64_t>> after;  ///< each done up to there
  };
  std::deque<entry> queue;
  bool started = false, closed = false;
  std::shared_ptr<std::vector<work>> capture;  ///< where the work goes instead
};

struct card {
  int number = 0;
  std::size_t used = 0;                    ///< bytes
  cudaError_t broken = cudaSuccess;        ///< after an error in a kernel nothing works any more
  std::shared_ptr<stream_state> standard;  ///< the default stream
  std::vector<std::weak_ptr<stream_state>> streams;
};

/// Never destroyed: threads may outlive main.
struct cards {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::unique_ptr<card>> all;
  std::deque<std::shared_ptr<stream_state>> unserved;  ///< streams that have got their first work, but no thread
  std::size_t n_vacant = 0;                            ///< threads that wait for such
  std::condition_variable vacant;
};
cards& the_cards();
card& current_card();
void set_current_card(int);

/// The state behind a handle; null is the current card's default stream.
std::shared_ptr<stream_state> state_of(cudaStream_t);
/// Queues work, or captures it.
cudaError_t submit(const std::shared_ptr<stream_state>&, work);
/// Waits until all that was submitted before is done.
cudaError_t wait_for(const std::shared_ptr<stream_state>&);
/// For all streams of the card, or only those that the default stream waits for.
cudaError_t wait_for_card(card&, bool only_blocking);
/// Whether this thread captures: then much is forbidden to it.
bool captures();

}  // namespace simt

struct simt_stream {
  std::shared_ptr<simt::stream_state> state;
};
struct simt_graph {
  std::shared_ptr<std::vector<simt::work>> nodes;
};
struct simt_graph_exec {
  std::shared_ptr<const std::vector<simt::work>> nodes;
};
struct simt_event {
  struct moment {
    bool reached = false;
    std::chrono::steady_clock::time_point when{};
  };
  std::shared_ptr<moment> last = std::make_shared<moment>();  ///< of the last record; a new one each time
  bool recorded = false;
};
