// Each step of the parking protocol, by hand: a sender's step is put between two steps of the consumer, on one thread,
// so that every interleaving of one park with one send is tried and none depends on luck. The same steps against two
// defective variants show what the protocol is for.
#include "src/mail/parking.hpp"

#include <boost/test/unit_test.hpp>
#include <functional>

#include "src/mail/mailbox.hpp"

namespace mail = troupe::mail;

namespace {

/// Where the other side may step in.
struct hooks {
  std::function<void()> before_park, after_park, after_recheck;  // consumer
  std::function<void()> before_announce, between_announce;       // sender
};
hooks* at = nullptr;

void run(std::function<void()>& hook) {
  if (!hook) return;
  auto once = std::move(hook);
  hook = nullptr;
  once();
}

/// The protocol as it is, with places to step in.
struct stepped : mail::parking {
  static bool announce(std::atomic<std::uint64_t>& state) noexcept {
    run(at->before_announce);
    return parking::announce(state);
  }
  template <class Ready>
  static bool park(std::atomic<std::uint64_t>& state, Ready&& ready) noexcept {
    run(at->before_park);
    return parking::park(state, [&] {
      run(at->after_park);
      const bool is = ready();
      run(at->after_recheck);
      return is;
    });
  }
};

/// Defective: parks without looking again.
struct hasty : stepped {
  template <class Ready>
  static bool park(std::atomic<std::uint64_t>& state, Ready&&) noexcept {
    return stepped::park(state, [] { return false; });
  }
};

/// Defective: the sender looks at the word before its message is visible, which is what a plain load without a fence
/// amounts to once the processor lets it overtake the store.
struct unfenced : stepped {
  static bool announce(std::atomic<std::uint64_t>& state) noexcept {
    const bool seen = state.load(std::memory_order_relaxed) & parked;
    run(at->between_announce);
    state.fetch_add(epoch, std::memory_order_relaxed);
    return seen && unpark(state);
  }
};

struct number {
  int value;
};
void count_wake(void* n) noexcept { ++*static_cast<int*>(n); }

struct outcome {
  bool suspended = false;
  int wakes = 0;
  std::uint32_t waiting = 0;

  bool lost() const { return suspended && wakes == 0 && waiting != 0; }
  bool sound() const { return suspended ? wakes == 1 : wakes == 0; }
};

enum class place { before_receive, before_park, after_park, after_recheck, after_all };

/// The consumer finds nothing and parks; one message is sent at `where`.
template <class Parking>
outcome send_at(place where, bool close = false) {
  hooks h;
  at = &h;
  mail::mailbox<number, Parking> box(4);
  typename mail::mailbox<number, Parking>::token from(box);
  const std::function<void()> send = [&] { close ? box.close() : (void)box.try_send(from, number{1}); };
  outcome o;
  std::vector<number> out;
  if (where == place::before_receive) send();
  if (where == place::before_park) h.before_park = send;
  if (where == place::after_park) h.after_park = send;
  if (where == place::after_recheck) h.after_recheck = send;
  if (box.try_receive(out, 8) == 0) o.suspended = box.park({&count_wake, &o.wakes});
  if (where == place::after_all) send();
  o.waiting = box.in_use() + box.drained();
  if (o.sound()) box.disarm();
  at = nullptr;
  return o;
}

constexpr place everywhere[] = {place::before_receive, place::before_park, place::after_park, place::after_recheck,
                                place::after_all};

/// The whole send runs ahead of the park but for its announcement, which reads at once and acts after it.
template <class Parking>
outcome send_split() {
  hooks h;
  at = &h;
  mail::mailbox<number, Parking> box(4);
  typename mail::mailbox<number, Parking>::token first(box), second(box);
  outcome o;
  std::vector<number> out;
  const auto consumer = [&] {
    out.clear();
    box.try_receive(out, 8);  // takes what is visible
    out.clear();
    o.suspended = box.park({&count_wake, &o.wakes});
  };
  h.before_announce = h.between_announce = [&, ran = std::make_shared<bool>(false)] {
    if (!std::exchange(*ran, true)) consumer();
  };
  box.try_send(first, number{1});
  o.waiting = box.in_use();
  at = nullptr;
  return o;
}

}  // namespace

BOOST_AUTO_TEST_CASE(no_interleaving_of_a_send_and_a_park_loses_the_wake) {
  for (const place where : everywhere) {
    BOOST_TEST_CONTEXT("place " << static_cast<int>(where)) {
      for (const bool close : {false, true}) {
        const outcome o = send_at<stepped>(where, close);
        BOOST_TEST(!o.lost());
        BOOST_TEST(o.sound());
      }
    }
  }
  BOOST_TEST(!send_split<stepped>().lost());
}

BOOST_AUTO_TEST_CASE(a_wake_that_is_on_its_way_is_waited_for) {
  // The sender comes after the park and before the re-check: it has taken the park, so the consumer may not go on.
  const outcome o = send_at<stepped>(place::after_park);
  BOOST_TEST(o.suspended);
  BOOST_TEST(o.wakes == 1);
}

BOOST_AUTO_TEST_CASE(without_the_second_look_a_wake_is_lost) {
  const outcome o = send_at<hasty>(place::before_park);
  BOOST_TEST(o.lost());
  BOOST_TEST(send_at<hasty>(place::before_park, true).lost());
  BOOST_TEST(!send_at<stepped>(place::before_park).lost());
}

BOOST_AUTO_TEST_CASE(without_a_full_step_in_the_announcement_a_wake_is_lost) {
  // Stands for the reordering: the load of the word comes first, the message is visible only after the consumer's
  // second look. With the sound protocol the load is part of the read-modify-write that follows the message.
  hooks h;
  at = &h;
  std::atomic<std::uint64_t> state{0};
  bool visible = false, suspended = false;
  h.between_announce = [&] { suspended = unfenced::park(state, [&] { return visible; }); };
  const bool wakes = unfenced::announce(state);
  visible = true;
  BOOST_TEST(suspended);
  BOOST_TEST(!wakes);

  h = {};
  state = 0;
  visible = suspended = false;
  h.before_announce = [&] { suspended = stepped::park(state, [&] { return visible; }); };
  BOOST_TEST(stepped::announce(state) == suspended);
  at = nullptr;
}
