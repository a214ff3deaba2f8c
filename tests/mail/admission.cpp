#include <boost/test/unit_test.hpp>
#include <thread>
#include <vector>

#include "src/mail/cancel.hpp"
#include "src/mail/gate.hpp"
#include "src/mail/permit.hpp"
#include "src/mail/scope.hpp"

namespace mail = troupe::mail;

BOOST_AUTO_TEST_CASE(permits_are_counted_and_come_back) {
  mail::permits permits(2);
  auto a = permits.try_acquire();
  auto b = permits.try_acquire();
  BOOST_TEST((a && b));
  BOOST_TEST(!permits.try_acquire());
  BOOST_TEST(permits.in_use() == 2u);
  mail::permit moved = std::move(*a);
  a.reset();
  BOOST_TEST(permits.in_use() == 2u);
  moved.release();
  moved.release();
  BOOST_TEST(permits.in_use() == 1u);
  *b = mail::permit();
  BOOST_TEST(permits.in_use() == 0u);
}

BOOST_AUTO_TEST_CASE(a_heavy_permit_takes_its_weight) {
  mail::permits permits(10);
  auto a = permits.try_acquire(7);
  BOOST_TEST(bool(a));
  BOOST_TEST(!permits.try_acquire(4));
  BOOST_TEST(bool(permits.try_acquire(3)));
  BOOST_TEST(permits.in_use() == 7u);
  BOOST_TEST(!permits.try_acquire(0xffffffff));
}

BOOST_AUTO_TEST_CASE(a_permit_outlives_its_counter_and_a_closed_one_grants_nothing) {
  mail::permit left;
  {
    mail::permits permits(1);
    left = std::move(*permits.try_acquire());
    permits.close();
    BOOST_TEST(permits.in_use() == 1u);
    BOOST_TEST(!permits.try_acquire());
  }
  BOOST_TEST(bool(left));
}

BOOST_AUTO_TEST_CASE(permits_hold_under_contention) {
  mail::permits permits(3);
  std::atomic<int> inside{0}, most{0}, granted{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        if (auto p = permits.try_acquire()) {
          const int now = ++inside;
          int seen = most.load();
          while (seen < now && !most.compare_exchange_weak(seen, now)) {
          }
          ++granted;
          --inside;
        }
      }
    });
  }
  for (auto& t : threads) t.join();
  BOOST_TEST(most <= 3);
  BOOST_TEST(granted > 0);
  BOOST_TEST(permits.in_use() == 0u);
}

BOOST_AUTO_TEST_CASE(a_gate_completes_when_the_last_has_left) {
  mail::gate gate;
  int done = 0;
  auto a = gate.try_pass();
  BOOST_TEST(gate.enter());
  BOOST_TEST(gate.count() == 2u);
  BOOST_TEST(gate.close([&] { ++done; }));
  BOOST_TEST(!gate.close([&] { done += 10; }));
  BOOST_TEST(!gate.enter());
  BOOST_TEST(!gate.try_pass());
  BOOST_TEST(done == 0);
  gate.leave();
  auto b = std::move(a);
  BOOST_TEST(done == 0);
  b = {};
  BOOST_TEST(done == 1);
}

BOOST_AUTO_TEST_CASE(an_empty_gate_completes_at_once_and_its_callback_may_end_it) {
  auto gate = std::make_unique<mail::gate>();
  gate->close([&] { gate.reset(); });
  BOOST_TEST(!gate);
}

BOOST_AUTO_TEST_CASE(a_gate_completes_once_under_contention) {
  for (int round = 0; round < 200; ++round) {
    mail::gate gate;
    std::atomic<int> done{0}, inside{0}, early{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 100; ++i) {
          if (!gate.enter()) break;
          ++inside;
          --inside;
          gate.leave();
        }
      });
    }
    gate.close([&] {
      early += inside != 0;
      ++done;
    });
    for (auto& t : threads) t.join();
    BOOST_REQUIRE(done == 1);
    BOOST_REQUIRE(early == 0);
  }
}

namespace {
struct work : mail::scope::child {
  explicit work(bool ends_at_once = false) : ends_at_once(ends_at_once) {}
  void stop() noexcept override {
    ++stops;
    if (ends_at_once) owner->remove(*this);
  }
  bool ends_at_once;
  mail::scope* owner = nullptr;
  int stops = 0;
};
}  // namespace

BOOST_AUTO_TEST_CASE(a_scope_stops_its_children_and_completes_at_zero) {
  mail::scope scope;
  work a, b(true), c, late;
  for (work* w : {&a, &b, &c}) {
    w->owner = &scope;
    BOOST_TEST(scope.add(*w));
  }
  scope.remove(c);
  int done = 0;
  scope.close([&] { ++done; });
  BOOST_TEST(a.stops == 1);
  BOOST_TEST(b.stops == 1);
  BOOST_TEST(c.stops == 0);
  BOOST_TEST(!scope.add(late));
  BOOST_TEST(scope.count() == 1u);
  BOOST_TEST(done == 0);
  scope.remove(a);
  BOOST_TEST(done == 1);
}

BOOST_AUTO_TEST_CASE(a_scope_whose_children_leave_from_inside_stop_completes_once) {
  mail::scope scope;
  work a(true), b(true), c(true);
  int done = 0;
  for (work* w : {&a, &b, &c}) {
    w->owner = &scope;
    scope.add(*w);
  }
  scope.close([&] { ++done; });
  BOOST_TEST(done == 1);
  scope.close([&] { ++done; });
  BOOST_TEST(done == 1);
}

BOOST_AUTO_TEST_CASE(a_cancel_flag_keeps_its_first_reason) {
  mail::cancel_flag flag;
  BOOST_TEST(!flag.is_set());
  BOOST_TEST(!flag.why());
  BOOST_TEST(flag.set(troupe::errc::deadline_exceeded));
  BOOST_TEST(!flag.set());
  BOOST_TEST((flag.why() == troupe::errc::deadline_exceeded));
}
