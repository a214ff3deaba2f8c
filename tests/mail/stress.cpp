#include <boost/test/unit_test.hpp>
#include <thread>
#include <vector>

#include "src/mail/mailbox.hpp"
#include "tests/mail/consumer.hpp"

namespace mail = troupe::mail;
namespace utf = boost::unit_test;

namespace {

struct numbered {
  std::uint32_t sender;
  std::uint32_t is_control;
  std::uint64_t value;
};
using box_type = mail::mailbox<numbered>;

/// `senders` threads send 0..count-1 each, every 16th as control; all arrive, in order per sender, none twice.
std::uint64_t in_order(unsigned senders, std::uint64_t count, std::uint32_t credits) {
  auto box = std::make_shared<box_type>(credits, senders);
  std::vector<std::thread> threads;
  std::atomic<unsigned> running{senders};
  std::atomic<std::uint64_t> control_refused{0};
  for (unsigned s = 0; s < senders; ++s) {
    threads.emplace_back([&, s, to = mail::sender<numbered>(box)]() mutable {
      for (std::uint64_t i = 0; i < count; ++i) {
        const numbered m{s, i % 16 == 15, i};
        if (m.is_control) {
          if (!to.send_control(m)) ++control_refused;
        } else {
          while (!to.try_send(m)) std::this_thread::yield();
        }
      }
      if (--running == 0) to.close();
    });
  }
  sleeper sleep;
  std::vector<std::uint64_t> next(senders, 0);
  std::uint64_t misplaced = 0, beyond = 0;
  const std::uint64_t slept = consume(*box, sleep, [&](const numbered& m) {
    misplaced += m.value != next[m.sender];
    next[m.sender] = m.value + 1;
    beyond += box->in_use() > credits + senders * (count / 16 + 1);
  });
  for (auto& t : threads) t.join();
  box->disarm();
  BOOST_TEST(misplaced == 0u);
  BOOST_TEST(beyond == 0u);
  BOOST_TEST(control_refused == 0u);
  for (const std::uint64_t n : next) BOOST_TEST(n == count);
  BOOST_TEST(box->in_use() == 0u);
  BOOST_TEST(slept == sleep.wakes());
  return slept;
}

/// One credit: the consumer parks and is woken for nearly every message. `rounds` messages there, each answered.
std::uint64_t ping_pong(std::uint64_t rounds) {
  auto there = std::make_shared<box_type>(1), back = std::make_shared<box_type>(1);
  std::thread echo([&, to = mail::sender<numbered>(back)]() mutable {
    sleeper sleep;
    consume(*there, sleep, [&](const numbered& m) {
      while (!to.try_send(m)) std::this_thread::yield();
    });
    to.close();
    there->disarm();
  });
  mail::sender<numbered> to(there);
  sleeper sleep;
  std::uint64_t got = 0, wrong = 0;
  to.try_send(numbered{0, 0, 0});
  const std::uint64_t slept = consume(*back, sleep, [&](const numbered& m) {
    wrong += m.value != got++;
    if (got == rounds) return to.close();
    while (!to.try_send(numbered{0, 0, got})) std::this_thread::yield();
  });
  echo.join();
  back->disarm();
  BOOST_TEST(wrong == 0u);
  BOOST_TEST(got == rounds);
  return slept;
}

/// Credit-1 senders that do not wait for an answer: parks race with sends and with each other's wakes.
void one_credit(unsigned senders, std::uint64_t count) { in_order(senders, count, 1); }

}  // namespace

BOOST_AUTO_TEST_CASE(one_sender_in_order) { in_order(1, 200'000, 256); }
BOOST_AUTO_TEST_CASE(three_senders_in_order) { in_order(3, 70'000, 256); }
BOOST_AUTO_TEST_CASE(eight_senders_in_order) { in_order(8, 30'000, 256); }
BOOST_AUTO_TEST_CASE(three_senders_share_one_credit) { one_credit(3, 3'000); }
BOOST_AUTO_TEST_CASE(every_message_of_a_ping_pong_wakes) { BOOST_TEST(ping_pong(5'000) > 0u); }

// As a port that its owner polls when it likes: it is parked again while a sender still wakes it from the park before.
BOOST_AUTO_TEST_CASE(a_consumer_need_not_wait_for_its_wake) {
  constexpr std::uint64_t count = 20'000;
  auto box = std::make_shared<box_type>(64);
  std::thread sending([count, to = mail::sender<numbered>(box)]() mutable {
    for (std::uint64_t i = 0; i < count; ++i)
      while (!to.try_send(numbered{0, 0, i})) std::this_thread::yield();
    to.close();
  });
  sleeper unused;
  std::vector<numbered> batch;
  std::uint64_t received = 0;
  bool parked = false;
  while (!box->drained()) {
    batch.clear();
    if (parked) box->take_back_park();
    received += box->try_receive(batch, 8);
    parked = box->park(unused.waker());
  }
  sending.join();
  box->disarm();
  BOOST_TEST(received == count);
}

BOOST_AUTO_TEST_CASE(senders_that_race_with_closing_lose_nothing_they_were_promised) {
  for (int round = 0; round < 300; ++round) {
    auto box = std::make_shared<box_type>(8);
    std::vector<std::thread> threads;
    std::atomic<std::uint64_t> accepted{0};
    std::atomic<bool> go{false};
    for (unsigned s = 0; s < 3; ++s) {
      threads.emplace_back([&, s, to = mail::sender<numbered>(box)]() mutable {
        while (!go) std::this_thread::yield();
        for (std::uint64_t i = 0; i < 50; ++i) {
          if (i % 5 == 0 ? to.send_control(numbered{s, 1, i}) : to.try_send(numbered{s, 0, i})) ++accepted;
        }
      });
    }
    threads.emplace_back([&] {
      while (!go) std::this_thread::yield();
      for (int i = 0; i < round; ++i) std::atomic_signal_fence(std::memory_order_seq_cst);
      box->close();
    });
    go = true;
    sleeper sleep;
    std::uint64_t received = 0;
    consume(*box, sleep, [&](const numbered&) { ++received; });
    const bool over = box->drained();
    for (auto& t : threads) t.join();
    box->disarm();
    BOOST_REQUIRE(over);
    BOOST_REQUIRE(received == accepted);  // counted after the join: nothing was accepted once the consumer had ended
  }
}

BOOST_AUTO_TEST_CASE(long_one_sender_in_order, *utf::label("slow")) { in_order(1, 10'000'000, 1024); }
BOOST_AUTO_TEST_CASE(long_three_senders_in_order, *utf::label("slow")) { in_order(3, 3'000'000, 1024); }
BOOST_AUTO_TEST_CASE(long_eight_senders_in_order, *utf::label("slow")) { in_order(8, 1'000'000, 1024); }
BOOST_AUTO_TEST_CASE(long_eight_senders_share_one_credit, *utf::label("slow")) { one_credit(8, 50'000); }
BOOST_AUTO_TEST_CASE(millions_of_parks_and_wakes, *utf::label("slow")) { BOOST_TEST(ping_pong(2'000'000) > 100'000u); }
