#pragma once
#include <atomic>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "src/cpu/cpu_backend.hpp"
#include "tests/backend/driver.hpp"

/// The ranks of a tensor-parallel group in this process, driven as one backend.
namespace troupe::test {

/// Hands each plan to every rank, and lets each compute on a thread of its own.
class group_of_ranks final : public model::backend {
 public:
  explicit group_of_ranks(std::vector<std::unique_ptr<model::backend>> ranks) : ranks_(std::move(ranks)) {}
  const model::rank_shape& shape() const override { return ranks_[0]->shape(); }
  result<void> launch(std::shared_ptr<const model::step_plan> plan) override {
    for (auto& r : ranks_)
      if (auto ok = r->launch(plan); !ok) return ok;
    return {};
  }
  result<bool> poll(model::step_done& done) override {
    std::vector<std::future<result<bool>>> others;
    std::vector<model::step_done> answers(ranks_.size());
    for (std::size_t r = 1; r < ranks_.size(); ++r)
      others.push_back(std::async(std::launch::async, [&, r] { return ranks_[r]->poll(answers[r]); }));
    auto first = ranks_[0]->poll(done);
    for (std::size_t r = 1; r < ranks_.size(); ++r) {
      const auto other = others[r - 1].get();
      BOOST_TEST_REQUIRE(other.ok() == first.ok());
      if (!other) continue;
      BOOST_TEST_REQUIRE(*other == *first);
      BOOST_TEST_REQUIRE(answers[r].rows.empty());
      if (*first) BOOST_TEST_REQUIRE(answers[r].seq == done.seq);
    }
    return first;
  }

 private:
  std::vector<std::unique_ptr<model::backend>> ranks_;
};

inline result<std::unique_ptr<model::backend>> make_group_of_ranks(std::shared_ptr<const model::model> m,
                                                                   const cpu::cpu_options& o, std::uint32_t size,
                                                                   std::shared_ptr<model::sink_table> sinks) {
  auto members = group::make_thread_group(size, {1 << 16, std::chrono::seconds(60)});
  if (!members) return members.take_error();
  std::vector<std::unique_ptr<model::backend>> ranks;
  for (std::uint32_t r = 0; r < size; ++r) {
    auto one = cpu::make_cpu_backend(m, o, r == 0 ? sinks : nullptr, (*members)[r]);
    if (!one) return one.take_error();
    ranks.push_back(std::move(*one));
  }
  return std::unique_ptr<model::backend>(std::make_unique<group_of_ranks>(std::move(ranks)));
}

class group_driver : public backend_driver {
 public:
  group_driver(std::shared_ptr<const model::model> m, const cpu::cpu_options& o, std::uint32_t size)
      : backend_driver(
            [&](auto sinks) { return make_group_of_ranks(std::move(m), o, size, std::move(sinks)).value(); }) {}
};

}  // namespace troupe::test
