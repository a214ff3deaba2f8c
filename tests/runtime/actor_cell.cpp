#include "actors/runtime/actor_cell.hpp"

#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <atomic>
#include <boost/test/unit_test.hpp>
#include <future>
#include <string>
#include <thread>

#include "actors/runtime/system.hpp"

namespace runtime = troupe::runtime;
namespace mail = troupe::mail;
using namespace std::chrono_literals;

namespace {

struct add {
  int amount;
};
struct note {
  explicit note(std::string s) : text(std::move(s)) {}
  std::string text;
};
struct fail {};

/// Says what it was told, and in which order its hooks ran.
class recorder {
 public:
  using message = std::variant<add, note, fail>;
  struct outbox {
    std::vector<std::string>* log;
    void say(std::string s) { log->push_back(std::move(s)); }
    void flush() { log->push_back("flush"); }
  };

  void begin(outbox& out) { out.say("begin"); }
  void on(const add& a, outbox& out) { out.say("add " + std::to_string(sum_ += a.amount)); }
  void on(note&& n, outbox& out) {
    const std::string taken = std::move(n.text);
    out.say(taken);
  }
  void on(const fail&, outbox&) { throw std::runtime_error("as asked"); }
  void failed(message& m, std::exception_ptr, outbox& out) { out.say("failed " + std::to_string(m.index())); }
  void settle(outbox& out) { out.say("settle"); }
  void end(outbox& out) { out.say("end"); }

 private:
  int sum_ = 0;
};

using words = std::vector<std::string>;

}  // namespace

BOOST_AUTO_TEST_CASE(an_actor_is_a_plain_class_that_needs_no_loop) {
  words log;
  recorder::outbox out{&log};
  recorder actor;
  actor.on(add{2}, out);
  actor.on(add{3}, out);
  BOOST_TEST(log == (words{"add 2", "add 5"}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_batch_is_handled_settled_and_flushed) {
  asio::io_context host(1);
  runtime::loop loop({"test"}, host);
  words log;
  runtime::actor_cell<recorder> cell(loop, {.name = "recorder"});
  auto to = cell.make_sender();
  to.try_send(add{1});
  to.try_send(note("a note"));
  cell.start({&log});
  BOOST_TEST(log.empty());
  host.poll();
  BOOST_TEST(log == (words{"begin", "flush", "add 1", "a note", "settle", "flush"}), boost::test_tools::per_element());
  log.clear();
  to.try_send(add{2});
  host.restart();
  host.poll();
  BOOST_TEST(log == (words{"add 3", "settle", "flush"}), boost::test_tools::per_element());
  log.clear();
  to.try_send(add{3});
  to.close();
  host.restart();
  host.poll();
  BOOST_TEST(log == (words{"add 6", "settle", "flush", "end", "flush"}), boost::test_tools::per_element());
  BOOST_TEST(cell.ended());
  BOOST_TEST(!to.try_send(add{4}));
}

BOOST_AUTO_TEST_CASE(an_exception_costs_its_message_only) {
  asio::io_context host(1);
  runtime::loop loop({"test"}, host);
  words log, faults;
  runtime::actor_cell<recorder> cell(
      loop, {.name = "recorder", .on_fault = [&](const runtime::fault& f) {
               faults.push_back(std::string(f.where) + " " + std::to_string(f.message) + " " + f.what());
             }});
  auto to = cell.make_sender();
  cell.start({&log});
  to.try_send(add{1});
  to.try_send(fail{});
  to.try_send(add{1});
  host.poll();
  BOOST_TEST(log == (words{"begin", "flush", "add 1", "failed 2", "add 2", "settle", "flush"}),
             boost::test_tools::per_element());
  BOOST_TEST(faults == (words{"recorder 2 as asked"}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(other_work_gets_its_turn_after_64_messages) {
  asio::io_context host(1);
  runtime::loop loop({"test"}, host);
  words log;
  runtime::actor_cell<recorder> cell(loop, {.name = "recorder"});
  auto to = cell.make_sender();
  for (int i = 0; i < 150; ++i) to.try_send(add{1});
  cell.start({&log});
  asio::post(host, [&] { log.push_back("other"); });
  host.poll();
  const auto other = std::find(log.begin(), log.end(), "other") - log.begin();
  BOOST_TEST(log[other - 3] == "add 64");
  BOOST_TEST(log[other + 1] == "add 65");
  BOOST_TEST(std::count(log.begin(), log.end(), "settle") == 3);
  BOOST_TEST(std::count(log.begin(), log.end(), "add 150") == 1);
}

namespace {

struct ball {
  int hops;
};
struct stop {};

/// Passes a ball on until it has made its hops; then everybody stops.
class player {
 public:
  using message = std::variant<ball, stop>;
  struct outbox {
    mail::sender<message> next;
  };
  explicit player(std::atomic<int>& handled) : handled_(handled) {}

  void on(const ball& b, outbox& out) {
    ++handled_;
    if (b.hops == 0) {
      stopped_ = true;
      out.next.send_control(stop{});
    } else if (!out.next.try_send(ball{b.hops - 1})) {
      lost = true;
    }
  }
  void on(const stop&, outbox& out) {
    if (!stopped_) out.next.send_control(stop{});
    stopped_ = true;
  }
  bool done() const { return stopped_; }
  bool lost = false;

 private:
  std::atomic<int>& handled_;
  bool stopped_ = false;
};

void ring(bool fold, int hops) {
  std::atomic<int> handled{0};
  runtime::system system({.fold = fold});
  std::vector<std::unique_ptr<runtime::actor_cell<player>>> cells;
  for (int i = 0; i < 3; ++i) {
    const std::string name = "player-" + std::to_string(i);
    cells.push_back(std::make_unique<runtime::actor_cell<player>>(system.add(name), runtime::cell_options{name, 4}));
  }
  BOOST_TEST(system.loops().size() == (fold ? 1u : 3u));
  for (int i = 0; i < 3; ++i) cells[i]->start({cells[(i + 1) % 3]->make_sender()}, handled);
  cells[0]->make_sender().try_send(ball{hops});
  system.start();
  for (auto& c : cells) c->wait_ended();
  BOOST_TEST(system.stop(10s));
  BOOST_TEST(handled == hops + 1);
  for (auto& c : cells) BOOST_TEST(!c->actor().lost);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_ring_of_actors_on_one_loop) { ring(true, 20'000); }
BOOST_AUTO_TEST_CASE(a_ring_of_actors_on_three_loops) { ring(false, 20'000); }

namespace {

/// Counts slowly enough that messages pend when it is told to stop.
class slow_counter {
 public:
  using message = std::variant<add>;
  struct outbox {};
  void on(const add&, outbox&) {
    std::this_thread::sleep_for(50us);
    ++count;
  }
  int count = 0;
};

}  // namespace

BOOST_AUTO_TEST_CASE(stopping_drains_what_was_accepted) {
  runtime::system system;
  runtime::actor_cell<slow_counter> cell(system.add("slow"), {.name = "slow"});
  auto to = cell.make_sender();
  cell.start({});
  system.start();
  for (int i = 0; i < 500; ++i) BOOST_REQUIRE(to.try_send(add{1}));
  BOOST_TEST(system.stop(30s));
  BOOST_TEST(cell.ended());
  BOOST_TEST(cell.actor().count == 500);
  BOOST_TEST(!to.try_send(add{1}));
}

namespace {

/// Waits in its first message until it is let go.
class held_up {
 public:
  using message = std::variant<add>;
  struct outbox {};
  held_up(std::promise<void>& in, std::shared_future<void> go) : in_(in), go_(std::move(go)) {}
  void on(const add&, outbox&) {
    if (count++ == 0) in_.set_value();
    go_.wait();
  }
  int count = 0;

 private:
  std::promise<void>& in_;
  std::shared_future<void> go_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(halting_leaves_what_is_pending_and_nothing_leaks) {
  std::promise<void> in, go;
  runtime::system system;
  runtime::actor_cell<held_up> cell(system.add("held"), {.name = "held"});
  auto to = cell.make_sender();
  cell.start({}, in, go.get_future().share());
  for (int i = 0; i < 1000; ++i) BOOST_REQUIRE(to.try_send(add{1}));
  system.start();
  in.get_future().wait();
  BOOST_TEST(!system.stop(1ms));  // it hangs, so it is halted
  go.set_value();
  BOOST_TEST(system.stop(60s));
  BOOST_TEST(!cell.ended());
  BOOST_TEST(cell.actor().count == 64);  // the batch it was in
}

BOOST_AUTO_TEST_CASE(a_cell_destroyed_on_a_running_loop_waits_for_its_actor) {
  runtime::system system;
  runtime::loop& loop = system.add("host");
  system.start();
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> handled{0};
    {
      runtime::actor_cell<player> cell(loop, {.name = "player"});
      auto to = cell.make_sender();
      cell.start({}, handled);
      to.try_send(ball{1});
    }
    BOOST_REQUIRE(handled == 1);
  }
}

BOOST_AUTO_TEST_CASE(a_cell_that_never_started_goes_quietly) {
  runtime::system system;
  runtime::actor_cell<slow_counter> cell(system.add("slow"), {.name = "slow"});
  BOOST_TEST(cell.make_sender().try_send(add{1}));
  system.start();
  BOOST_TEST(system.stop(10s));
}

BOOST_AUTO_TEST_CASE(a_cell_on_a_guest_loop_may_go_while_a_wake_is_queued) {
  asio::io_context host(1);
  runtime::loop loop({"guest"}, host);
  {
    runtime::actor_cell<slow_counter> cell(loop, {.name = "slow"});
    auto to = cell.make_sender();
    cell.start({});
    host.poll();
    to.try_send(add{1});
  }
  host.restart();
  host.poll();
}
