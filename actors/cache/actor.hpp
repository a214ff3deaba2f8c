#pragma once
#include "actors/cache/messages.hpp"

namespace troupe::cache {

/// Where the cache actor's messages go: to the scheduler.
class outbox {
 public:
  virtual ~outbox() = default;
  virtual void send(lease_granted&&) = 0;
  virtual void send(prefix_hit&&) = 0;
};

}  // namespace troupe::cache
