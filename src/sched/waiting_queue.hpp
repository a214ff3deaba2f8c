#pragma once
#include <cstdint>
#include <map>

#include "src/sched/sequence.hpp"

namespace troupe::sched {

/// Sequences that wait for a slot, in lanes by tenant. The next one is of the lowest priority value; among those, of
/// the tenant that has been charged the least device time; among those, the first that arrived. A tenant that comes
/// back starts at the least charge of those at work, so that being idle saves nothing up (virtual counters as in Sheng
/// et al., "Fairness in Serving Large Language Models", OSDI 2024: the same shares as deficit round robin, without a
/// quantum to choose).
class waiting_queue {
 public:
  /// A request of the tenant enters or leaves the system, waiting or not.
  void enter(std::uint64_t tenant);
  void leave(std::uint64_t tenant);
  void charge(std::uint64_t tenant, double ns);

  void push(sequence&);
  void erase(sequence&);
  sequence* head() const;
  std::size_t size() const { return size_; }

  /// All, by tenant and then by order.
  template <class F>
  void for_each(F&& f) const {
    for (const auto& [tenant, lane] : lanes_)
      for (const auto& [order, s] : lane.waiting) f(*s);
  }

 private:
  struct lane {
    std::map<run_order, sequence*> waiting;
    std::uint64_t n_requests = 0;
    double charged = 0;
  };
  std::map<std::uint64_t, lane> lanes_;
  std::size_t size_ = 0;
};

}  // namespace troupe::sched
