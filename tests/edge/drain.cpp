#include "tests/edge/fixture.hpp"

#include <thread>

using namespace troupe;
using namespace std::chrono_literals;

namespace {
auto elapsed(std::chrono::steady_clock::time_point since) { return std::chrono::steady_clock::now() - since; }
}  // namespace

BOOST_AUTO_TEST_CASE(draining_lets_answers_end_and_closes_the_rest) {
  served s({.threads = 2});
  auto idle = s.connect();
  idle.send(get("/health"));
  BOOST_TEST(idle.receive()->status == 200);
  auto streaming = s.connect();
  streaming.send(post("/v1/completions", script("tick 60 5", R"("stream":true)")));
  streaming.receive_until("data: ");
  auto waiting = s.connect();
  waiting.send(post("/v1/completions", script("late 300")));
  for (int i = 0; i < 400 && s.control().now().submitted < 2; ++i) std::this_thread::sleep_for(1ms);

  s.server.drain();
  BOOST_TEST(idle.closed_within(2s));
  BOOST_CHECK_THROW(s.connect().send(get("/health")) && !s.connect().closed_within(1s) ? void() : throw std::runtime_error("refused"), std::runtime_error);
  auto r = waiting.receive();
  BOOST_REQUIRE(r.has_value());
  BOOST_TEST(r->status == 200);
  BOOST_TEST(r->header("connection") == "close");
  BOOST_TEST(streaming.receive_until("[DONE]").find("59 ") != std::string::npos);
  BOOST_TEST(streaming.closed_within(2s));
  const auto begin = std::chrono::steady_clock::now();
  s.server.stop(5s);
  BOOST_TEST((elapsed(begin) < 3s));
  BOOST_TEST(s.server.connections() == 0u);
  BOOST_TEST(s.control().now().cancelled == 0u);
}

BOOST_AUTO_TEST_CASE(what_has_not_ended_at_the_limit_is_cancelled) {
  served s;
  auto c = s.connect();
  c.send(post("/v1/completions", script("hang")));
  auto half = s.connect();
  half.send("POST /v1/completions HTTP/1.1\r\nHo");
  for (int i = 0; i < 400 && s.control().now().open < 1; ++i) std::this_thread::sleep_for(1ms);
  const auto begin = std::chrono::steady_clock::now();
  s.server.stop(200ms);
  BOOST_TEST((elapsed(begin) >= 190ms));
  BOOST_TEST((elapsed(begin) < 3s));
  BOOST_TEST(s.control().wait_for_cancelled(1));
  BOOST_TEST(c.closed_within(1s));
  BOOST_TEST(half.closed_within(1s));
}

BOOST_AUTO_TEST_CASE(stopping_at_once_under_load_leaves_nothing_open) {
  for (int round = 0; round < 10; ++round) {
    served s({.threads = 2});
    std::vector<client> clients;
    for (int i = 0; i < 20; ++i) {
      clients.push_back(s.connect());
      clients.back().send(i % 4 == 3 ? post("/tokenize", R"({"prompt":")" + std::string(100000, 'a') + "\"}")
                                     : post("/v1/completions", script("tick 10000 1", i % 2 ? R"("stream":true)" : "")));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(round * 3));
    s.server.stop(0ms);
    BOOST_TEST(s.server.connections() == 0u);
  }
}

BOOST_AUTO_TEST_CASE(a_server_may_stop_twice_and_before_it_starts) {
  auto engine = fake::open();
  edge::server never(engine, {.port = 0});
  never.stop(1s);
  edge::server twice(engine, {.port = 0});
  twice.start();
  twice.stop(0ms);
  twice.stop(0ms);
}
