#include "actors/rank/actor.hpp"

#include <boost/test/unit_test.hpp>
#include <deque>
#include <new>
#include <stdexcept>

using namespace troupe;

namespace {

/// A backend that does what its script says: one entry per call of poll, `ready` when it is used up.
struct script {
  enum class answer { not_yet, ready, fails, throws, no_memory };
  std::deque<answer> polls;
  bool launch_fails = false;
  std::vector<step_seq> launched;
  std::size_t n_polls = 0;
};

class scripted_backend final : public model::backend {
 public:
  explicit scripted_backend(std::shared_ptr<script> s) : script_(std::move(s)) {}
  const model::rank_shape& shape() const override { return shape_; }
  result<void> launch(std::shared_ptr<const model::step_plan> plan) override {
    if (script_->launch_fails) return failure(errc::rank_failed, "the device refused the plan");
    script_->launched.push_back(plan->view().seq());
    return {};
  }
  result<bool> poll(model::step_done& done) override {
    ++script_->n_polls;
    auto next = script::answer::ready;
    if (!script_->polls.empty()) next = script_->polls.front(), script_->polls.pop_front();
    switch (next) {
      case script::answer::not_yet: return false;
      case script::answer::fails: return failure(errc::rank_failed, "the device was lost");
      case script::answer::throws: throw std::runtime_error("something broke");
      case script::answer::no_memory: throw std::bad_alloc();
      case script::answer::ready: break;
    }
    done.seq = script_->launched.back();
    done.rows = {{7, 42, 0, 0.0f}};
    return true;
  }

 private:
  std::shared_ptr<script> script_;
  model::rank_shape shape_;
};

struct recorder final : rank::outbox {
  std::vector<sched::step_done> done;
  std::vector<sched::rank_failed> failed;
  std::vector<std::string> order;  ///< of everything
  bool busy = false;
  mutable int looks_until_given_up = -1;  ///< -1: never

  void send(sched::step_done&& m) override {
    order.push_back(busy ? "done while busy" : "done");
    done.push_back(std::move(m));
  }
  void send(sched::rank_failed&& m) override {
    order.push_back(busy ? "failed while busy" : "failed");
    failed.push_back(std::move(m));
  }
  void step_started() override { busy = true, order.push_back("start"); }
  void step_ended() override { busy = false; }
  bool given_up() const override { return looks_until_given_up >= 0 && looks_until_given_up-- == 0; }
};

struct stage {
  std::shared_ptr<script> backend = std::make_shared<script>();
  recorder out;
  rank::rank_actor actor{3, std::make_unique<scripted_backend>(backend)};

  /// Hands a plan over as the runtime does: an exception goes to `failed`.
  void plan(step_seq seq, model::plan_kind kind = model::plan_kind::run) {
    rank::message m = rank::step_plan(model::plan_builder().build(seq, kind));
    try {
      actor.on(std::move(std::get<rank::step_plan>(m)), out);
    } catch (...) {
      actor.failed(m, std::current_exception(), out);
    }
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(rank_actor)

BOOST_AUTO_TEST_CASE(plans_are_executed_in_order_and_answered) {
  stage s;
  s.backend->polls = {script::answer::not_yet, script::answer::not_yet, script::answer::ready};
  s.plan(1);
  s.plan(2);
  BOOST_TEST(s.backend->launched == (std::vector<step_seq>{1, 2}), boost::test_tools::per_element());
  BOOST_TEST(s.backend->n_polls == 4u);
  BOOST_REQUIRE(s.out.done.size() == 2u);
  BOOST_TEST(s.out.done[0].rank == 3u);
  BOOST_TEST(s.out.done[0].done.seq == 1u);
  BOOST_TEST(s.out.done[0].done.rows.at(0).token == 42);
  BOOST_TEST(s.out.done[1].done.seq == 2u);
  BOOST_TEST(s.out.order == (std::vector<std::string>{"start", "done", "start", "done"}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_gap_or_a_repeated_number_loses_the_rank) {
  for (step_seq wrong : {1u, 3u, 0u}) {
    stage s;
    s.plan(1);
    s.plan(wrong);
    BOOST_REQUIRE(s.out.failed.size() == 1u);
    BOOST_TEST(s.out.failed[0].rank == 3u);
    BOOST_TEST(s.out.failed[0].message == "plan " + std::to_string(wrong) + " came after plan 1");
    BOOST_TEST(s.backend->launched.size() == 1u);
    s.plan(2);  // the right one, too late
    BOOST_TEST(s.backend->launched.size() == 1u);
    BOOST_TEST(s.out.failed.size() == 1u);
    BOOST_TEST(s.out.done.size() == 1u);
  }
}

BOOST_AUTO_TEST_CASE(a_stop_plan_is_acknowledged_without_the_backend) {
  stage s;
  s.plan(1);
  s.plan(2, model::plan_kind::stop);
  BOOST_TEST(s.backend->launched.size() == 1u);
  BOOST_REQUIRE(s.out.done.size() == 2u);
  BOOST_TEST(s.out.done[1].done.seq == 2u);
  BOOST_TEST(s.out.done[1].done.rows.empty());
  s.plan(2, model::plan_kind::stop);
  BOOST_TEST(s.out.failed.size() == 1u);
}

BOOST_AUTO_TEST_CASE(every_kind_of_failure_is_told_once_and_ends_the_work) {
  struct {
    bool launch_fails;
    script::answer poll;
    const char* says;
  } const cases[] = {{true, script::answer::ready, "the device refused the plan"},
                     {false, script::answer::fails, "the device was lost"},
                     {false, script::answer::throws, "something broke"},
                     {false, script::answer::no_memory, "out of memory"}};
  for (const auto& c : cases)
    BOOST_TEST_CONTEXT(c.says) {
      stage s;
      s.backend->launch_fails = c.launch_fails;
      s.backend->polls = {script::answer::not_yet, c.poll};
      s.plan(1);
      BOOST_REQUIRE(s.out.failed.size() == 1u);
      BOOST_TEST(s.out.failed[0].message == c.says);
      BOOST_TEST(!s.out.busy);  // the watchdog must not call a rank overdue that has said so itself
      const std::size_t polls = s.backend->n_polls;
      s.backend->launch_fails = false;
      s.plan(2);
      s.plan(3, model::plan_kind::stop);
      BOOST_TEST(s.backend->n_polls == polls);
      BOOST_TEST(s.out.failed.size() == 1u);
      BOOST_TEST(s.out.done.empty());
    }
}

BOOST_AUTO_TEST_CASE(a_rank_that_was_given_up_stops_polling_without_a_word) {
  stage s;
  s.backend->polls.assign(100, script::answer::not_yet);
  s.out.looks_until_given_up = 4;
  s.plan(1);
  BOOST_TEST(s.backend->n_polls == 5u);
  BOOST_TEST(!s.out.busy);
  BOOST_TEST(s.out.failed.empty());
  BOOST_TEST(s.out.done.empty());
  s.plan(2);
  BOOST_TEST(s.backend->launched.size() == 1u);
}

BOOST_AUTO_TEST_SUITE_END()
