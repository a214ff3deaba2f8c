#include "src/model/fault.hpp"

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <deque>

using namespace troupe;
using namespace troupe::model;
using namespace std::chrono_literals;

namespace {

/// Answers each plan at the second poll, as a device would; `depth` plans may be in flight.
class slow_device final : public backend {
 public:
  explicit slow_device(std::uint32_t depth) { shape_.depth = depth; }
  const rank_shape& shape() const override { return shape_; }
  result<void> launch(std::shared_ptr<const step_plan> plan) override {
    BOOST_REQUIRE(flights_.size() < shape_.depth);
    flights_.push_back(plan->view().seq());
    return {};
  }
  result<bool> poll(step_done& done) override {
    if (flights_.empty() || ++polls_ % 2) return false;
    done.seq = flights_.front();
    flights_.pop_front();
    return true;
  }

 private:
  rank_shape shape_;
  std::deque<step_seq> flights_;
  int polls_ = 0;
};

struct stage {
  explicit stage(const char* spec, std::uint32_t depth = 1)
      : device(with_fault(std::make_unique<slow_device>(depth), parse_fault(spec).value())) {}
  result<void> launch(step_seq seq) { return device->launch(plan_builder().build(seq)); }
  /// Polls until something comes of it: the step's number, or 0 after `patience` polls.
  result<step_seq> finish(int patience = 10) {
    for (int i = 0; i < patience; ++i) {
      step_done done;
      auto finished = device->poll(done);
      if (!finished) return finished.take_error();
      if (*finished) return done.seq;
    }
    return step_seq{0};
  }
  std::unique_ptr<backend> device;
};

std::chrono::steady_clock::duration time_of(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::steady_clock::now() - start;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(faults)

BOOST_AUTO_TEST_CASE(specifications) {
  BOOST_TEST((parse_fault("step=20:fail").value().what == fault_kind::fail));
  BOOST_TEST(parse_fault("step=20:fail").value().step == 20u);
  BOOST_TEST((parse_fault("step=1:no-memory").value().what == fault_kind::no_memory));
  BOOST_TEST((parse_fault("step=3:hang").value().what == fault_kind::hang));
  BOOST_TEST((parse_fault("step=3:freeze").value().what == fault_kind::freeze));
  BOOST_TEST((parse_fault("step=3:slow=500ms").value().delay == 500ms));
  BOOST_TEST(!parse_fault("step=3:slow=500ms").value().lasting);
  BOOST_TEST((parse_fault("step=3+:slow=2s").value().delay == 2s));
  BOOST_TEST(parse_fault("step=3+:slow=2s").value().lasting);
  BOOST_TEST(parse_fault("step=3:fail").value().rank == 0u);
  BOOST_TEST(parse_fault("rank=2:step=3+:slow=2s").value().rank == 2u);
  BOOST_TEST(parse_fault("rank=2:step=3+:slow=2s").value().lasting);
  for (const char* wrong : {"rank=1", "rank=:step=1:fail", "rank=1step=1:fail", "rank=-1:step=1:fail", "rank=70000:step=1:fail",
                            "step=1:rank=1:fail", "", "fail", "step=", "step=0:fail", "step=-1:fail", "step=1", "step=1:", "step=1:explode", "step=1:fail ",
                            "step=1:slow", "step=1:slow=", "step=1:slow=5", "step=1:slow=5h", "step=1:slow=-5ms", "step=1+:fail",
                            "step=99999999999999999999:fail", "step=1:slow=86401s", "step=1:slow=18446744073709552s"}) {
    auto f = parse_fault(wrong);
    BOOST_TEST_CONTEXT(wrong) {
      BOOST_REQUIRE(!f);
      BOOST_TEST(f.error().code == errc::invalid_argument);
      BOOST_TEST(f.error().message.find("step=N:") != std::string::npos);
    }
  }
}

BOOST_AUTO_TEST_CASE(the_step_fails_after_those_before_it) {
  stage s("step=3:fail", 2);
  s.launch(1).value();
  s.launch(2).value();
  BOOST_TEST(s.finish().value() == 1u);
  s.launch(3).value();
  BOOST_TEST(s.finish().value() == 2u);
  s.launch(4).value();
  auto failed = s.finish();
  BOOST_REQUIRE(!failed);
  BOOST_TEST(failed.error().code == errc::rank_failed);
}

BOOST_AUTO_TEST_CASE(memory_runs_out_at_the_launch) {
  stage s("step=2:no-memory", 2);
  s.launch(1).value();
  BOOST_CHECK_THROW((void)s.launch(2), std::bad_alloc);
  BOOST_TEST(s.finish().value() == 1u);
}

BOOST_AUTO_TEST_CASE(a_device_that_hangs_never_answers_but_poll_returns) {
  stage s("step=2:hang", 2);
  s.launch(1).value();
  s.launch(2).value();
  BOOST_TEST(s.finish().value() == 1u);
  BOOST_TEST(s.finish(20).value() == 0u);
}

BOOST_AUTO_TEST_CASE(slowness_is_paid_once_per_step) {
  stage once("step=2:slow=30ms");
  stage lasting("step=2+:slow=30ms");
  for (step_seq seq = 1; seq <= 3; ++seq) {
    once.launch(seq).value();
    lasting.launch(seq).value();
    const auto a = time_of([&] { BOOST_TEST(once.finish().value() == seq); });
    const auto b = time_of([&] { BOOST_TEST(lasting.finish().value() == seq); });
    if (seq == 2) BOOST_TEST((a >= 30ms));
    if (seq >= 2) BOOST_TEST((b >= 30ms));
  }
}

BOOST_AUTO_TEST_CASE(without_a_plan_there_is_nothing_to_poll) {
  stage s("step=1:fail");
  BOOST_TEST(s.finish().value() == 0u);
}

BOOST_AUTO_TEST_SUITE_END()
