#pragma once
#include <functional>

#include "actors/cache/messages.hpp"
#include "src/cache/page_store.hpp"

namespace troupe::cache {

/// Where the cache actor's messages go: both to the scheduler.
struct outbox {
  std::function<void(lease_granted&&)> granted;
  std::function<void(prefix_hit&&)> hit;
};

/// The cache: free lists and the prefix index of all KV groups.
///
/// Owns: the page_store, alone. Thread: control, the scheduler's.
/// Invariants: every lease_want and prefix_lookup has exactly one answer, in order; every page is free, leased or
/// indexed, checked after each message. A breach throws errc::internal out of the handler: the message was wrong.
class actor {
 public:
  using message = cache::message;
  using outbox = cache::outbox;

  explicit actor(std::vector<group_size> groups) : store_(std::move(groups)) {}

  void on(lease_want&&, outbox&);
  void on(lease_return&&, outbox&);
  void on(prefix_lookup&&, outbox&);
  void on(prefix_publish&&, outbox&);
  void on(transfer_done&&, outbox&) {}

  const page_store& store() const { return store_; }

 private:
  page_store store_;
};

}  // namespace troupe::cache
