#include "actors/runtime/system.hpp"

#include <ranges>

namespace troupe::runtime {

system::system(system_options options) : options_(std::move(options)) {}

system::~system() {
  for (auto& l : loops_ | std::views::reverse) {
    l->stop();
    l->join();
  }
}

loop& system::add(std::string name) {
  if (!loops_.empty() && (options_.fold || options_.host)) return *loops_.front();
  loop_options o{std::move(name), options_.on_fault};
  loops_.push_back(options_.host ? std::make_unique<loop>(std::move(o), *options_.host)
                                 : std::make_unique<loop>(std::move(o)));
  return *loops_.back();
}

void system::start() {
  for (auto& l : loops_) l->start();
}

bool system::stop(std::chrono::nanoseconds limit) {
  for (auto& l : loops_ | std::views::reverse) {
    l->stop();
    if (!l->join_for(limit)) {
      l->halt();
      return false;
    }
  }
  return true;
}

void system::halt() noexcept {
  for (auto& l : loops_) l->halt();
}

}  // namespace troupe::runtime
