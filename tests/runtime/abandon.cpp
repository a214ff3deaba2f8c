#include <atomic>
#include <boost/test/unit_test.hpp>
#include <future>
#include <memory>

#include "actors/runtime/actor_cell.hpp"
#include "actors/runtime/loop.hpp"

namespace runtime = troupe::runtime;
using namespace std::chrono_literals;

namespace {

struct block {
  explicit block(std::shared_future<void> f) : until(std::move(f)) {}
  std::shared_future<void> until;
};

/// Hangs as long as it is told to; says when it begins, and when it is freed.
class hanging {
 public:
  using message = std::variant<block>;
  struct outbox {
    std::promise<void>* begun;
  };
  explicit hanging(std::promise<void>& freed) : freed_(freed) {}
  ~hanging() { freed_.set_value(); }
  void on(const block& b, outbox& out) {
    if (out.begun) std::exchange(out.begun, nullptr)->set_value();
    b.until.wait();
    ++n_handled_;
  }

 private:
  std::promise<void>& freed_;
  int n_handled_ = 0;
};

using cell = runtime::actor_cell<hanging>;

struct rig {
  std::promise<void> begun, go, freed;
  std::unique_ptr<runtime::loop> loop = std::make_unique<runtime::loop>(runtime::loop_options{"hanging", {}});
  std::unique_ptr<cell> actor = std::make_unique<cell>(*loop, runtime::cell_options{"hanging", 8});
  troupe::mail::sender<hanging::message> sender = actor->make_sender();

  rig() {
    actor->start({&begun}, freed);
    loop->start();
    std::shared_future<void> until(go.get_future());
    BOOST_TEST(sender.try_send(block(until)));
    BOOST_TEST(sender.try_send(block(until)));
    begun.get_future().wait();
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(abandoned_loops)

BOOST_AUTO_TEST_CASE(a_hanging_thread_keeps_what_it_uses_and_frees_it_when_it_comes_back) {
  rig r;
  auto freed = r.freed.get_future();
  r.loop->stop();
  BOOST_TEST(!r.loop->join_for(20ms));
  runtime::loop::abandon(std::move(r.loop), std::shared_ptr<cell>(std::move(r.actor)));
  BOOST_TEST((freed.wait_for(20ms) == std::future_status::timeout));
  BOOST_TEST(!r.sender.try_send(block({})));  // the mailbox is closed
  r.go.set_value();
  BOOST_TEST((freed.wait_for(60s) == std::future_status::ready));
}

BOOST_AUTO_TEST_CASE(a_thread_that_has_just_come_back_is_joined) {
  rig r;
  auto freed = r.freed.get_future();
  r.go.set_value();
  r.loop->stop();
  BOOST_TEST(r.loop->join_for(60s));
  runtime::loop::abandon(std::move(r.loop), std::shared_ptr<cell>(std::move(r.actor)));
  BOOST_TEST((freed.wait_for(0s) == std::future_status::ready));
}

BOOST_AUTO_TEST_CASE(coming_back_and_being_abandoned_may_meet) {
  for (int round = 0; round < 200; ++round) {
    rig r;
    auto freed = r.freed.get_future();
    r.loop->stop();
    auto other = std::async(std::launch::async, [&] { r.go.set_value(); });
    if (round % 2) other.wait();
    runtime::loop::abandon(std::move(r.loop), std::shared_ptr<cell>(std::move(r.actor)));
    BOOST_REQUIRE((freed.wait_for(60s) == std::future_status::ready));
    other.wait();
  }
}

BOOST_AUTO_TEST_SUITE_END()
