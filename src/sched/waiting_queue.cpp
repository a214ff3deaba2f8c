#include "src/sched/waiting_queue.hpp"

#include <algorithm>
#include <tuple>

#include "src/cache/invariant.hpp"

namespace troupe::sched {

void waiting_queue::enter(std::uint64_t tenant) {
  auto [it, is_new] = lanes_.try_emplace(tenant);
  if (is_new) {
    double least = std::numeric_limits<double>::infinity();
    for (const auto& [key, lane] : lanes_)
      if (key != tenant) least = std::min(least, lane.charged);
    if (lanes_.size() > 1) it->second.charged = least;
  }
  ++it->second.n_requests;
}

void waiting_queue::leave(std::uint64_t tenant) {
  auto it = lanes_.find(tenant);
  cache::require(it != lanes_.end(), "a tenant left that never came");
  if (--it->second.n_requests == 0) lanes_.erase(it);
}

void waiting_queue::charge(std::uint64_t tenant, double ns) {
  if (auto it = lanes_.find(tenant); it != lanes_.end()) it->second.charged += ns;
}

void waiting_queue::push(sequence& s) {
  lanes_.at(s.request->tenant).waiting.emplace(s.order, &s);
  ++size_;
}

void waiting_queue::erase(sequence& s) { size_ -= lanes_.at(s.request->tenant).waiting.erase(s.order); }

sequence* waiting_queue::head() const {
  const lane* best = nullptr;
  auto key = [](const lane& l) {
    const run_order& o = l.waiting.begin()->first;
    return std::tuple(o.priority, l.charged, o.arrival);
  };
  for (const auto& [tenant, lane] : lanes_)
    if (!lane.waiting.empty() && (!best || key(lane) < key(*best))) best = &lane;
  return best ? best->waiting.begin()->second : nullptr;
}

}  // namespace troupe::sched
