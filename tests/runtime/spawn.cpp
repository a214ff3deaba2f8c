#include "actors/runtime/spawn.hpp"

#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>
#include <boost/test/unit_test.hpp>
#include <future>
#include <memory>
#include <stdexcept>

namespace runtime = troupe::runtime;
namespace mail = troupe::mail;
using namespace std::chrono_literals;

namespace {

struct rig {
  asio::io_context host{1};
  runtime::loop loop{{"test"}, host};
  mail::scope scope;
};

asio::awaitable<void> sleep_and_note(std::chrono::steady_clock::duration time, std::shared_ptr<std::vector<int>> log) {
  auto wait = runtime::sleep_for(time);
  const bool slept = co_await std::move(wait);
  log->push_back(slept);
}

asio::awaitable<void> sleep_again_and_again(std::shared_ptr<int> rounds) {
  for (;;) {
    ++*rounds;
    auto wait = runtime::sleep_for(1h);
    co_await std::move(wait);
    if (*rounds == 100) co_return;  // a coroutine that does not look at the answer must still end
  }
}

asio::awaitable<void> throw_after(std::chrono::steady_clock::duration time) {
  auto wait = runtime::sleep_for(time);
  co_await std::move(wait);
  throw std::runtime_error("from a coroutine");
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_sleep_ends_in_time) {
  rig r;
  auto log = std::make_shared<std::vector<int>>();
  const auto start = std::chrono::steady_clock::now();
  BOOST_TEST(runtime::spawn(r.scope, r.loop, sleep_and_note(5ms, log)));
  BOOST_TEST(r.scope.count() == 1u);
  r.host.run();
  BOOST_TEST((std::chrono::steady_clock::now() - start >= 5ms));
  BOOST_TEST(*log == std::vector<int>{1}, boost::test_tools::per_element());
  BOOST_TEST(r.scope.count() == 0u);
}

BOOST_AUTO_TEST_CASE(closing_the_scope_ends_its_coroutines_and_completes) {
  rig r;
  auto log = std::make_shared<std::vector<int>>();
  auto rounds = std::make_shared<int>(0);
  runtime::spawn(r.scope, r.loop, sleep_and_note(1h, log));
  runtime::spawn(r.scope, r.loop, sleep_again_and_again(rounds),
                 [](const runtime::fault& f) { BOOST_ERROR("cancellation is no fault: " << f.what()); });
  r.host.poll();
  BOOST_TEST(r.scope.count() == 2u);
  bool done = false;
  r.scope.close([&] { done = true; });
  BOOST_TEST(!done);
  r.host.run();
  BOOST_TEST(done);
  BOOST_TEST(*log == std::vector<int>{0}, boost::test_tools::per_element());
  BOOST_TEST(log.use_count() == 1);
  BOOST_TEST(rounds.use_count() == 1);
  BOOST_TEST(!runtime::spawn(r.scope, r.loop, sleep_and_note(1ms, log)));
  BOOST_TEST(log.use_count() == 1);
}

BOOST_AUTO_TEST_CASE(a_coroutine_that_is_stopped_before_its_first_step_ends_too) {
  rig r;
  auto log = std::make_shared<std::vector<int>>();
  runtime::spawn(r.scope, r.loop, sleep_and_note(1h, log));
  bool done = false;
  r.scope.close([&] { done = true; });
  r.host.run();
  BOOST_TEST(done);
  BOOST_TEST(log.use_count() == 1);
}

BOOST_AUTO_TEST_CASE(an_exception_out_of_a_coroutine_is_reported_and_leaves_the_scope) {
  rig r;
  std::string what;
  runtime::spawn(r.scope, r.loop, throw_after(1ms), [&](const runtime::fault& f) { what = f.what(); });
  r.host.run();
  BOOST_TEST(what == "from a coroutine");
  BOOST_TEST(r.scope.count() == 0u);
}

BOOST_AUTO_TEST_CASE(what_is_left_goes_with_the_io_context) {
  auto log = std::make_shared<std::vector<int>>();
  {
    mail::scope scope;
    asio::io_context host(1);
    runtime::loop loop({"test"}, host);
    runtime::spawn(scope, loop, sleep_and_note(1h, log));
    host.poll();
    BOOST_TEST(log.use_count() == 2);
  }
  BOOST_TEST(log.use_count() == 1);
}

BOOST_AUTO_TEST_CASE(a_timer_repeats_survives_an_exception_and_ends_with_its_scope) {
  rig r;
  int calls = 0, faults = 0;
  runtime::every(
      r.scope, r.loop, 1ms,
      [&] {
        ++calls;
        if (calls == 2) throw std::runtime_error("once");
        if (calls == 5) r.scope.close();
      },
      [&](const runtime::fault&) { ++faults; });
  r.host.run();
  BOOST_TEST(calls == 5);
  BOOST_TEST(faults == 1);
  BOOST_TEST(r.scope.count() == 0u);
}

BOOST_AUTO_TEST_CASE(a_late_timer_skips_and_does_not_catch_up) {
  rig r;
  int calls = 0;
  const auto start = std::chrono::steady_clock::now();
  runtime::every(r.scope, r.loop, 10ms, [&] {
    if (++calls == 1) {
      while (std::chrono::steady_clock::now() - start < 65ms) {
      }
    }
    if (calls == 2) {
      BOOST_TEST((std::chrono::steady_clock::now() - start >= 70ms));
      r.scope.close();
    }
  });
  r.host.run();
  BOOST_TEST(calls == 2);
}

BOOST_AUTO_TEST_CASE(a_loop_runs_posted_work_on_its_named_thread) {
  runtime::loop loop({"troupe-test-loop-name"});
  std::promise<std::string> name;
  loop.start();
  BOOST_TEST(!loop.on_thread());
  loop.post([&] {
    char text[32];
    pthread_getname_np(pthread_self(), text, sizeof text);
    BOOST_TEST(loop.on_thread());
    name.set_value(text);
  });
  BOOST_TEST(name.get_future().get() == "troupe-test-loo");
  loop.stop();
  BOOST_TEST(loop.join_for(10s));
}

BOOST_AUTO_TEST_CASE(a_loop_survives_an_exception_out_of_posted_work) {
  std::promise<std::string> what, after;
  runtime::loop loop({"test", [&](const runtime::fault& f) { what.set_value(f.what()); }});
  loop.start();
  loop.post([] { throw std::runtime_error("posted"); });
  BOOST_TEST(what.get_future().get() == "posted");
  loop.post([&] { after.set_value("still here"); });
  BOOST_TEST(after.get_future().get() == "still here");
}

BOOST_AUTO_TEST_CASE(a_loop_polls_while_it_is_told_to) {
  std::promise<void> done;
  int polls = 0;
  bool in_flight = false;
  runtime::loop loop({"test"});
  loop.poll_while([&] {
    if (in_flight && ++polls == 1000) {
      in_flight = false;
      done.set_value();
    }
    return in_flight;
  });
  loop.start();
  loop.post([&] { in_flight = true; });
  done.get_future().wait();
  loop.stop();
  loop.join();
  BOOST_TEST(polls == 1000);
}

BOOST_AUTO_TEST_CASE(a_join_gives_up_on_a_hanging_handler_and_can_be_asked_again) {
  std::promise<void> entered, release;
  runtime::loop loop({"test"});
  loop.start();
  loop.post([&] {
    entered.set_value();
    release.get_future().wait();
  });
  entered.get_future().wait();
  loop.stop();
  BOOST_TEST(!loop.join_for(1ms));
  release.set_value();
  BOOST_TEST(loop.join_for(10s));
}
