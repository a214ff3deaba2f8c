#include "src/mail/mailbox.hpp"

#include <boost/test/unit_test.hpp>
#include <memory>
#include <string>
#include <thread>
#include <variant>

#include "tests/mail/consumer.hpp"

namespace mail = troupe::mail;

namespace {

struct text {
  explicit text(std::string s) : body(std::move(s)) {}
  std::string body;
};
struct number {
  int value;
};
struct stop {};
using message = std::variant<text, number, stop>;
using box_type = mail::mailbox<message>;

struct aggregate_with_destructor {
  std::string body;
};
static_assert(mail::detail::all_safe<message>);
static_assert(!mail::detail::all_safe<std::variant<number, aggregate_with_destructor>>);

std::vector<message> receive_all(box_type& box) {
  std::vector<message> all;
  while (box.try_receive(all, 64) != 0) {
  }
  return all;
}

void count_wake(void* n) noexcept { ++*static_cast<int*>(n); }

}  // namespace

BOOST_AUTO_TEST_CASE(messages_arrive_whole_and_in_order) {
  box_type box(16);
  box_type::token from(box);
  BOOST_TEST(box.try_send(from, text("one")));
  BOOST_TEST(box.try_send(from, message(number{2})));
  BOOST_TEST(box.send_control(from, stop{}));
  BOOST_TEST(box.in_use() == 3u);
  const auto got = receive_all(box);
  BOOST_REQUIRE(got.size() == 3u);
  BOOST_TEST(std::get<text>(got[0]).body == "one");
  BOOST_TEST(std::get<number>(got[1]).value == 2);
  BOOST_TEST(std::holds_alternative<stop>(got[2]));
  BOOST_TEST(box.in_use() == 0u);
}

BOOST_AUTO_TEST_CASE(without_a_credit_the_message_stays_with_the_sender) {
  box_type box(2);
  box_type::token from(box);
  BOOST_TEST(box.try_send(from, number{1}));
  BOOST_TEST(box.try_send(from, number{2}));
  message refused = text("a text too long to live inside the string object itself");
  BOOST_TEST(!box.try_send(from, std::move(refused)));
  BOOST_TEST(std::get<text>(refused).body == "a text too long to live inside the string object itself");
  std::vector<message> out;
  BOOST_TEST(box.try_receive(out, 1) == 1u);
  BOOST_TEST(box.try_send(from, std::move(refused)));
  BOOST_TEST(!box.try_send(from, number{3}));
}

BOOST_AUTO_TEST_CASE(control_messages_pass_a_full_mailbox_and_take_no_credit_from_others) {
  box_type box(1);
  box_type::token from(box);
  for (int i = 0; i < 100; ++i) BOOST_TEST(box.send_control(from, stop{}));
  BOOST_TEST(box.try_send(from, number{1}));
  BOOST_TEST(!box.try_send(from, number{2}));
  BOOST_TEST(box.send_control(from, stop{}));
  BOOST_TEST(box.in_use() == 102u);
  BOOST_TEST(receive_all(box).size() == 102u);
  BOOST_TEST(box.in_use() == 0u);
  BOOST_TEST(box.try_send(from, number{2}));
  BOOST_TEST(!box.try_send(from, number{3}));
}

BOOST_AUTO_TEST_CASE(a_mailbox_without_credits_takes_control_messages_only) {
  box_type box(0);
  box_type::token from(box);
  BOOST_TEST(!box.try_send(from, number{1}));
  BOOST_TEST(box.send_control(from, stop{}));
  BOOST_TEST(receive_all(box).size() == 1u);
}

BOOST_AUTO_TEST_CASE(closing_refuses_new_messages_and_delivers_the_accepted_ones) {
  box_type box(8);
  box_type::token from(box);
  BOOST_TEST(box.try_send(from, number{1}));
  BOOST_TEST(box.send_control(from, stop{}));
  box.close();
  BOOST_TEST(box.closed());
  BOOST_TEST(!box.drained());
  message refused = text("kept");
  BOOST_TEST(!box.try_send(from, std::move(refused)));
  BOOST_TEST(!box.send_control(from, std::move(refused)));
  BOOST_TEST(std::get<text>(refused).body == "kept");
  BOOST_TEST(receive_all(box).size() == 2u);
  BOOST_TEST(box.drained());
  box.close();
  BOOST_TEST(box.drained());
}

BOOST_AUTO_TEST_CASE(a_message_that_throws_while_it_is_made_costs_no_credit) {
  struct thrower {
    operator message() const { throw std::runtime_error("no message today"); }
  };
  box_type box(1);
  box_type::token from(box);
  for (int i = 0; i < 3; ++i) BOOST_CHECK_THROW(box.try_send(from, thrower{}), std::runtime_error);
  BOOST_TEST(box.in_use() == 0u);
  BOOST_TEST(box.try_send(from, number{1}));
}

BOOST_AUTO_TEST_CASE(parking_wakes_once_per_park) {
  box_type box(8);
  box_type::token from(box);
  int wakes = 0;
  const mail::waker waker{&count_wake, &wakes};
  BOOST_TEST(box.try_send(from, number{1}));
  BOOST_TEST(wakes == 0);
  BOOST_TEST(!box.park(waker));  // something is there
  receive_all(box);
  BOOST_TEST(box.park(waker));
  BOOST_TEST(box.try_send(from, number{2}));
  BOOST_TEST(box.try_send(from, number{3}));
  BOOST_TEST(wakes == 1);
  receive_all(box);
  BOOST_TEST(box.park(waker));
  BOOST_TEST(box.take_back_park());
  BOOST_TEST(!box.take_back_park());
  BOOST_TEST(box.try_send(from, number{4}));
  BOOST_TEST(wakes == 1);
  receive_all(box);
  BOOST_TEST(box.park(waker));
  box.close();
  BOOST_TEST(wakes == 2);
  BOOST_TEST(!box.park(waker));  // drained
  box.disarm();
}

BOOST_AUTO_TEST_CASE(a_sender_outlives_the_consumer_and_meets_closed) {
  auto box = std::make_shared<box_type>(4);
  mail::sender<message> a(box);
  auto b = a.another();
  BOOST_TEST(a.try_send(number{1}));
  BOOST_TEST(b.try_send(number{2}));
  box->close();
  std::weak_ptr<box_type> alive = box;
  box.reset();
  BOOST_TEST(!a.try_send(number{3}));
  a = std::move(b);
  BOOST_TEST(!b);
  BOOST_TEST(!b.try_send(number{3}));
  BOOST_TEST(!alive.expired());
  a = {};
  BOOST_TEST(alive.expired());
}

BOOST_AUTO_TEST_CASE(messages_left_in_a_mailbox_are_destroyed_with_it) {
  struct tracked {
    explicit tracked(std::shared_ptr<int> p) : held(std::move(p)) {}
    std::shared_ptr<int> held;
  };
  auto held = std::make_shared<int>(7);
  {
    mail::mailbox<tracked> box(200);
    mail::mailbox<tracked>::token from(box);
    for (int i = 0; i < 150; ++i) BOOST_TEST(box.try_send(from, tracked(held)));
    std::vector<tracked> some;
    BOOST_TEST(box.try_receive(some, 64) == 64u);
    BOOST_TEST(held.use_count() == 151);
  }
  BOOST_TEST(held.use_count() == 1);
}

BOOST_AUTO_TEST_CASE(one_busy_sender_does_not_starve_another) {
  mail::mailbox<number> box(2000);
  mail::mailbox<number>::token busy(box), quiet(box);
  BOOST_TEST(box.try_send(quiet, number{-1}));
  std::vector<number> out;
  // The busy sender always has a full batch ready.
  for (int batches = 0; batches < 100; ++batches) {
    for (int i = 0; i < 64; ++i) box.try_send(busy, number{i});
    out.clear();
    box.try_receive(out, 64);
    for (const number& n : out) {
      if (n.value == -1) return;
    }
  }
  BOOST_ERROR("the quiet sender's message was never taken");
}
