#include <asio/io_context.hpp>
#include <boost/test/unit_test.hpp>
#include <string>

#include "actors/runtime/actor_cell.hpp"
#include "actors/runtime/system.hpp"

namespace runtime = troupe::runtime;
using namespace std::chrono_literals;

namespace {

struct at {
  runtime::time_point when;
};

/// Keeps alarms and notes how late each was.
class clockmaker {
 public:
  using message = std::variant<at>;
  struct outbox {
    std::vector<std::string>* log;
  };
  void on(const at& m, outbox& out) {
    if (!when_ || m.when < *when_) when_ = m.when;
    out.log->push_back("set");
  }
  void on(runtime::tick t, outbox& out) {
    out.log->push_back(t.now >= *when_ ? "due" : "early");
    when_.reset();
  }
  void settle(outbox& out) { out.log->push_back("settle"); }
  std::optional<runtime::time_point> next_deadline() const { return when_; }

 private:
  std::optional<runtime::time_point> when_;
};

struct rig {
  asio::io_context host{1};
  runtime::loop loop{{"test"}, host};
  std::vector<std::string> log;
  runtime::actor_cell<clockmaker> cell{loop, {.name = "clockmaker"}};
  decltype(cell.make_sender()) to = cell.make_sender();
  rig() { cell.start({&log}); }
};

using words = std::vector<std::string>;

}  // namespace

BOOST_AUTO_TEST_CASE(a_parked_actor_wakes_at_its_deadline) {
  rig r;
  const auto when = std::chrono::steady_clock::now() + 10ms;
  r.to.try_send(at{when});
  r.host.run();
  BOOST_TEST((std::chrono::steady_clock::now() >= when));
  BOOST_TEST(r.log == (words{"set", "settle", "due", "settle"}), boost::test_tools::per_element());
  r.log.clear();
  r.to.try_send(at{std::chrono::steady_clock::now() - 1s});
  r.host.restart();
  r.host.run();
  BOOST_TEST(r.log == (words{"set", "settle", "due", "settle"}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(an_earlier_deadline_replaces_a_later_one) {
  rig r;
  const auto now = std::chrono::steady_clock::now();
  r.to.try_send(at{now + 1h});
  r.host.poll();
  r.to.try_send(at{now + 5ms});
  r.host.restart();
  r.host.run();  // comes back: the alarm of the late one was dropped
  BOOST_TEST(r.log == (words{"set", "settle", "set", "settle", "due", "settle"}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(an_actor_with_a_pending_deadline_ends_when_it_is_closed) {
  rig r;
  r.to.try_send(at{std::chrono::steady_clock::now() + 1h});
  r.to.close();
  r.host.run();
  BOOST_TEST(r.cell.ended());
}

BOOST_AUTO_TEST_CASE(a_cell_may_go_with_its_alarm_set) {
  asio::io_context host(1);
  runtime::loop loop({"test"}, host);
  std::vector<std::string> log;
  {
    runtime::actor_cell<clockmaker> cell(loop, {.name = "clockmaker"});
    auto to = cell.make_sender();
    cell.start({&log});
    to.try_send(at{std::chrono::steady_clock::now() + 1h});
    host.poll();
  }
  host.restart();
  host.run();  // comes back: the alarm went with its cell
  BOOST_TEST(log.size() == 2u);
}

BOOST_AUTO_TEST_CASE(deadlines_come_under_a_steady_flow_of_messages) {
  std::vector<std::string> log;
  runtime::system system;
  runtime::actor_cell<clockmaker> cell(system.add("clock"), {.name = "clockmaker", .credits = 100000});
  auto to = cell.make_sender();
  cell.start({&log});
  system.start();
  const auto end = std::chrono::steady_clock::now() + 200ms;
  while (std::chrono::steady_clock::now() < end) to.try_send(at{std::chrono::steady_clock::now() + 1ms});
  BOOST_TEST(system.stop(30s));
  BOOST_TEST(std::count(log.begin(), log.end(), "due") > 1);
  BOOST_TEST(std::count(log.begin(), log.end(), "early") == 0);
}
