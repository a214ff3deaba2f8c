#pragma once
#include <memory>
#include <mutex>
#include <unordered_map>

#include "src/model/backend.hpp"

namespace troupe::front {

/// The engine's logits sinks by number: plans name a sink, ranks look it up. Any thread. A sink leaves when its
/// registration ends, so a row that comes later finds none and is dropped.
class sinks final : public model::sink_table, public std::enable_shared_from_this<sinks> {
 public:
  struct registration {
    std::uint32_t number;
    std::shared_ptr<void> lease;
  };
  registration add(std::shared_ptr<logits_sink> sink) {
    std::lock_guard lock(mutex_);
    const std::uint32_t number = ++last_ ? last_ : ++last_;  // 0 means none
    table_[number] = std::move(sink);
    std::shared_ptr<void> lease(nullptr, [self = shared_from_this(), number](void*) { self->remove(number); });
    return {number, std::move(lease)};
  }
  std::shared_ptr<logits_sink> find(std::uint32_t number) override {
    std::lock_guard lock(mutex_);
    const auto it = table_.find(number);
    return it == table_.end() ? nullptr : it->second;
  }

 private:
  void remove(std::uint32_t number) {
    std::lock_guard lock(mutex_);
    table_.erase(number);
  }
  std::mutex mutex_;
  std::uint32_t last_ = 0;
  std::unordered_map<std::uint32_t, std::shared_ptr<logits_sink>> table_;
};

}  // namespace troupe::front
