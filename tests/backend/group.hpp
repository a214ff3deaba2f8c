#pragma once
#include <boost/test/unit_test.hpp>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "tests/backend/driver.hpp"

/// Several ranks that look like one backend.
namespace troupe::test {

/// Calls from one thread, made on another.
class caller {
 public:
  caller() : thread_([this] { work(); }) {}
  ~caller() {
    start([this] { leave_ = true; });
    thread_.join();
  }
  void start(std::function<void()> f) {
    std::lock_guard lock(mutex_);
    call_ = std::move(f);
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !call_; });
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (!leave_) {
      changed_.wait(lock, [&] { return static_cast<bool>(call_); });
      lock.unlock();
      call_();
      lock.lock();
      call_ = nullptr;
      changed_.notify_all();
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> call_;
  bool leave_ = false;
  std::thread thread_;
};

/// Who says what was drawn: every rank, as on GPUs, or rank 0 alone, as on the CPU.
enum class answering : std::uint8_t { all, first };

/// Ranks on threads of their own, as in the engine: every plan goes to all, and rank 0's answer is the answer. The
/// others must give the same, or none.
class rank_group final : public model::backend {
 public:
  using make_rank =
      std::function<result<std::unique_ptr<model::backend>>(std::uint32_t rank, std::shared_ptr<model::sink_table>)>;

  rank_group(std::uint32_t size, std::shared_ptr<recorder> first, const make_rank& make, answering who = answering::all)
      : who_(who), callers_(size), backends_(size), recorders_(size) {
    recorders_[0] = std::move(first);
    for (std::uint32_t r = 1; r < size; ++r) recorders_[r] = std::make_shared<recorder>();
    std::vector<std::string> problems(size);
    everywhere([&](std::uint32_t r) {
      auto b = make(r, recorders_[r]);
      if (b)
        backends_[r] = std::move(*b);
      else
        problems[r] = b.error().message;
    });
    for (const std::string& p : problems) BOOST_TEST_REQUIRE(p == "");
  }
  ~rank_group() override {
    everywhere([&](std::uint32_t r) { backends_[r].reset(); });
  }

  const model::rank_shape& shape() const override { return backends_[0]->shape(); }
  result<void> launch(std::shared_ptr<const model::step_plan> plan) override {
    std::vector<result<void>> outcomes(backends_.size());
    everywhere([&](std::uint32_t r) { outcomes[r] = backends_[r]->launch(plan); });
    for (auto& o : outcomes)
      if (!o) return std::move(o);
    return {};
  }
  result<bool> poll(model::step_done& done) override {
    std::vector<model::step_done> all(backends_.size());
    std::vector<std::string> problems(backends_.size());
    everywhere([&](std::uint32_t r) {
      for (;;) {
        auto finished = backends_[r]->poll(all[r]);
        if (!finished) problems[r] = finished.error().message;
        if (!finished || *finished) return;
      }
    });
    for (const std::string& p : problems)
      if (!p.empty()) return failure(errc::rank_failed, p);
    for (std::size_t r = 1; r < all.size(); ++r) {
      const model::step_done& d = all[r];
      BOOST_TEST_REQUIRE(d.seq == all[0].seq);
      BOOST_TEST_REQUIRE(d.rows.size() == (who_ == answering::all ? all[0].rows.size() : 0));
      for (std::size_t i = 0; i < d.rows.size(); ++i) BOOST_TEST(d.rows[i].token == all[0].rows[i].token);
    }
    done = std::move(all[0]);
    return true;
  }

  /// Whether every logits row that rank 0 has kept is on the other ranks too, bit for bit.
  bool logits_equal() const {
    for (std::uint32_t r = 1; r < recorders_.size(); ++r)
      for (const auto& [n, sink] : recorders_[0]->all())
        for (const auto& [position, logits] : sink->rows) {
          const auto& others = recorders_[r]->at(n)->rows;
          const auto found = others.find(position);
          if (found == others.end() || found->second.size() != logits.size() ||
              std::memcmp(found->second.data(), logits.data(), logits.size() * sizeof(float)) != 0)
            return false;
        }
    return true;
  }
  model::backend& rank(std::uint32_t r) { return *backends_[r]; }
  /// f(rank) on all ranks' threads at once.
  void everywhere(const std::function<void(std::uint32_t)>& f) {
    for (std::uint32_t r = 0; r < callers_.size(); ++r) callers_[r].start([&f, r] { f(r); });
    for (caller& c : callers_) c.wait();
  }

 private:
  const answering who_;
  std::vector<caller> callers_;
  std::vector<std::unique_ptr<model::backend>> backends_;
  std::vector<std::shared_ptr<recorder>> recorders_;
};

}  // namespace troupe::test
