#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "src/group/shared_group.hpp"
#include "src/link/handshake.hpp"

/// Rank 0's process and the processes of the other ranks.
namespace troupe::rank {

struct rank_host_options {
  std::uint32_t size = 2;
  std::chrono::seconds start_limit{300};  ///< for all ranks to come, and again for them to load
  std::chrono::seconds step_limit{120};   ///< for a wait in the shared memory's collective
  // Of child processes:
  std::string program;  ///< the troupe program
  // Of ranks that come by themselves:
  std::string rendezvous;  ///< HOST:PORT to listen at
  std::string secret;      ///< which they must know
};

/// The links to the other ranks, from the first word to the last, and the children among those ranks.
///
/// Threads: the owner's for starting and ending; `abort` and `why_lost` from any. A thread of its own starts children
/// (Linux ends a child when the thread that started it ends) and notices a connection that closes while no step runs.
/// Invariants: no child outlives the host; `watch`'s callback runs at most once per rank and not after `quiet`.
class rank_host {
 public:
  /// Starts the other ranks as children, or waits for those that come. Errors: invalid_argument, not_found, io_failed,
  /// rank_failed (they did not come in time).
  static result<std::shared_ptr<rank_host>> start(const rank_host_options&);
  ~rank_host();

  std::uint32_t size() const { return options_.size; }
  link::channel& link_of(std::uint32_t rank) { return *members_[rank - 1].link; }
  std::shared_ptr<link::channel> shared_link_of(std::uint32_t rank) { return members_[rank - 1].link; }
  /// What the hello to this rank has to prove.
  const link::digest& proof_for(std::uint32_t rank) const { return members_[rank - 1].proof; }
  const group::shared_group* shared() const { return shared_ ? &*shared_ : nullptr; }  ///< of children

  /// Replaces a failure of this rank's connection by what is known about the rank's end.
  failure explained(std::uint32_t rank, failure) const;
  /// "was killed by signal 9 (Killed)"; empty: nothing is known.
  std::string why_lost(std::uint32_t rank) const;

  /// From now on says which rank was lost while nobody listened to it. The rank's number is then known to whoever hears
  /// of a failure, and messages say only where it is.
  void watch(std::function<void(std::uint32_t rank, std::string what)> lost);
  void quiet();
  /// Gives all ranks up: their processes end.
  void abort() noexcept;
  /// Lets the ranks leave in order, and ends what has not left soon.
  void finish() noexcept;

 private:
  struct member {
    std::shared_ptr<link::channel> link;
    link::digest proof{};
    std::string where;  ///< "process 4711", "10.0.0.2:51342"
    int pid = -1;       ///< of a child; -1: none, or its end is known
    std::string end;
    bool reported = false;
  };

  explicit rank_host(const rank_host_options&);
  result<void> start_children();
  result<void> await_ranks();
  void run();
  void report_closed(const std::vector<std::uint32_t>& ranks);
  bool children_ended(std::chrono::milliseconds) const;
  void take_ends() const;

  const rank_host_options options_;
  std::optional<group::shared_group> shared_;
  link::unique_fd wake_;

  mutable std::mutex mutex_;  // guards what follows but the links
  std::condition_variable changed_;
  mutable std::vector<member> members_;  ///< of rank 1 and so on; the links do not change after `start`
  std::function<void()> to_spawn_;
  std::function<void(std::uint32_t, std::string)> lost_;
  bool aborted_ = false, finished_ = false, leaving_ = false;
  std::mutex call_mutex_;  // held during the callback, so that it is over when `quiet` returns
  bool quiet_ = false;
  std::thread thread_;
};

}  // namespace troupe::rank
