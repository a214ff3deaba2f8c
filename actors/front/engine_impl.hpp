#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include <troupe/engine.hpp>

#include "actors/front/port.hpp"
#include "actors/system.hpp"
#include "src/model/open_model.hpp"

namespace troupe {

/// What stands behind the public engine: the loaded model, the shared tables and the actor system.
/// Thread: any, except construction and `shut`.
class engine::impl final : public front::port_host {
 public:
  explicit impl(engine_options);
  ~impl() override;

  const text::text_model& text() const noexcept { return text_; }
  engine_status status() const;

  // For ports.
  const engine_options& options() const noexcept override { return options_; }
  const model_info& info() const noexcept override { return info_; }
  bool failed() const noexcept override { return failed_.load(std::memory_order_acquire); }
  mail::permits& permits() noexcept override { return permits_; }
  watch::engine_metrics& metrics() noexcept override { return *metrics_; }
  front::sinks& sinks() noexcept override { return *sinks_; }
  std::uint32_t n_text_shards() const noexcept override { return system_->n_text_shards(); }
  mail::sender<text::message> text_sender(std::uint32_t shard) override { return system_->text_sender(shard); }
  mail::sender<sched::message> sched_sender() override { return system_->sched_sender(); }
  request_id next_request_id() noexcept override { return last_request_.fetch_add(1, std::memory_order_relaxed) + 1; }

  void stop(std::chrono::milliseconds drain, std::function<void()> stopped);
  void on_failure(std::function<void(std::error_code, std::string)>);
  /// Cancels everything, waits for the actors and joins their threads. Ports may outlive it; they are refused.
  void shut() noexcept;

 private:
  void load();
  void describe();
  void rank_lost(const std::string& what);

  engine_options options_;
  model_info info_;
  text::text_model text_;
  std::shared_ptr<const model::model> model_;
  std::shared_ptr<watch::engine_metrics> metrics_;
  std::shared_ptr<front::sinks> sinks_;
  mail::permits permits_;
  std::atomic<request_id> last_request_{0};
  std::atomic<bool> failed_{false};

  std::mutex mutex_;  // of the callbacks below
  std::function<void(std::error_code, std::string)> failure_callback_;
  std::string failure_message_;
  std::unique_ptr<actor_system> system_;  // last: its threads use the rest
};

}  // namespace troupe
