#include "actors/runtime/supervisor.hpp"

#include <boost/test/unit_test.hpp>
#include <future>
#include <thread>
#include <troupe/error.hpp>

#include "actors/runtime/system.hpp"

namespace runtime = troupe::runtime;
using namespace std::chrono_literals;
using kind = runtime::incident::kind;

namespace {

struct rig {
  std::vector<runtime::incident> incidents;
  std::vector<std::string> gone;
  runtime::supervisor::outbox out{[this](const runtime::incident& i) { incidents.push_back(i); },
                                  [this](const std::string& who) { gone.push_back(who); }};
  runtime::supervisor actor;
  runtime::time_point now{};

  /// Virtual time: every look that comes due is taken at its moment.
  void pass(std::chrono::steady_clock::duration time) {
    const auto end = now + time;
    while (actor.next_deadline() && *actor.next_deadline() <= end) {
      now = std::max(now, *actor.next_deadline());
      actor.on(runtime::tick{now}, out);
    }
    now = end;
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(it_sleeps_while_nothing_is_watched) {
  rig r;
  BOOST_TEST(!r.actor.next_deadline());
  auto dog = std::make_shared<runtime::watchdog>("rank 0", 100ms);
  r.actor.on(runtime::watch(dog), r.out);
  BOOST_TEST(bool(r.actor.next_deadline()));
  r.actor.on(runtime::unwatch(dog), r.out);
  BOOST_TEST(!r.actor.next_deadline());
}

BOOST_AUTO_TEST_CASE(a_standstill_is_reported_once_within_its_limit_and_a_quarter) {
  rig r;
  auto dog = std::make_shared<runtime::watchdog>("rank 1", 100ms);
  r.actor.on(runtime::watch(dog, 1), r.out);
  r.pass(1s);
  BOOST_TEST(r.incidents.empty());  // idle is no standstill
  {
    auto working = dog->work();
    r.pass(99ms);
    BOOST_TEST(r.incidents.empty());
    r.pass(26ms);
    BOOST_REQUIRE(r.incidents.size() == 1u);
    BOOST_TEST((r.incidents[0].what == kind::watchdog_overdue));
    BOOST_TEST(r.incidents[0].rank == 1u);
    BOOST_TEST(r.incidents[0].text == "rank 1 has made no progress for 100 ms");
    r.pass(10s);
    BOOST_TEST(r.incidents.size() == 1u);
  }
  r.pass(1s);
  auto working = dog->work();
  r.pass(1s);
  BOOST_TEST(r.incidents.size() == 2u);
}

BOOST_AUTO_TEST_CASE(progress_and_new_work_are_no_standstill) {
  rig r;
  auto dog = std::make_shared<runtime::watchdog>("control", 100ms);
  r.actor.on(runtime::watch(dog), r.out);
  {
    auto working = dog->work();
    for (int i = 0; i < 50; ++i) {
      r.pass(90ms);
      dog->beat();
    }
  }
  for (int i = 0; i < 50; ++i) {
    auto working = dog->work();  // busy in every look, each time with other work
    r.pass(90ms);
  }
  BOOST_TEST(r.incidents.empty());
}

BOOST_AUTO_TEST_CASE(losses_are_told_once) {
  rig r;
  const auto code = troupe::make_error_code(troupe::errc::rank_failed);
  r.actor.on(runtime::rank_failed(2, code, "device lost"), r.out);
  r.actor.on(runtime::rank_failed(2, code, "device lost, again"), r.out);
  r.actor.on(runtime::rank_failed(0, code, "peer lost"), r.out);
  r.actor.on(runtime::step_overdue{7, 1}, r.out);
  r.actor.on(runtime::step_overdue{7, 1}, r.out);
  r.actor.on(runtime::step_overdue{8, 1}, r.out);
  r.actor.on(runtime::stopped("text"), r.out);
  BOOST_REQUIRE(r.incidents.size() == 4u);
  BOOST_TEST(r.incidents[0].rank == 2u);
  BOOST_TEST(r.incidents[0].text == "device lost");
  BOOST_TEST((r.incidents[1].error == code));
  BOOST_TEST((r.incidents[2].what == kind::step_overdue));
  BOOST_TEST(r.incidents[3].step == 8u);
  BOOST_TEST(r.gone == std::vector<std::string>{"text"}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_hanging_thread_is_noticed_from_the_supervisors_own) {
  std::promise<std::string> told;
  runtime::system system;
  runtime::actor_cell<runtime::supervisor> cell(system.add("watch"), {.name = "supervisor"});
  auto to = cell.make_sender();
  cell.start({[&](const runtime::incident& i) { told.set_value(i.text); }, {}});
  system.start();
  auto dog = std::make_shared<runtime::watchdog>("rank 0", 20ms);
  auto working = dog->work();
  to.try_send(runtime::watch(dog));
  auto text = told.get_future();
  BOOST_REQUIRE((text.wait_for(30s) == std::future_status::ready));
  BOOST_TEST(text.get() == "rank 0 has made no progress for 20 ms");
  BOOST_TEST(system.stop(30s));
}
