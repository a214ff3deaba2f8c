#include "tests/edge/fixture.hpp"

#include <thread>

using namespace troupe;
using namespace std::chrono_literals;
namespace json = boost::json;

namespace {

std::string chat(std::string_view script, std::string_view more = {}) {
  return R"({"model":"fake","messages":[{"role":"user","content":")" + std::string(script) + "\"}]" + (more.empty() ? "" : ",") + std::string(more) + "}";
}
const std::string streamed = R"("stream":true)";

}  // namespace

BOOST_AUTO_TEST_CASE(a_whole_answer_has_text_reason_and_usage) {
  served s;
  auto v = json::parse(s.ask(post("/v1/chat/completions", chat("say Hello there"))).body);
  BOOST_TEST(string_at(v, "object") == "chat.completion");
  BOOST_TEST(string_at(v.at("choices").at(0).at("message"), "content") == "Hello there ");
  BOOST_TEST(string_at(v.at("choices").at(0), "finish_reason") == "stop");
  BOOST_TEST((v.at("usage") == json::parse(R"({"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":2}})")));
  v = json::parse(s.ask(post("/v1/completions", script("count 3"))).body);
  BOOST_TEST(string_at(v.at("choices").at(0), "text") == "0 1 2 ");
  BOOST_TEST(string_at(v.at("choices").at(0), "finish_reason") == "length");
  v = json::parse(s.ask(post("/v1/completions", script("stopped"))).body);
  BOOST_TEST(string_at(v.at("choices").at(0), "stop_reason") == "END");
}

BOOST_AUTO_TEST_CASE(a_stream_has_role_deltas_reason_usage_and_done) {
  served s;
  auto r = s.ask(post("/v1/chat/completions", chat("say a b c", streamed + R"(,"stream_options":{"include_usage":true})")));
  BOOST_TEST(r.status == 200);
  BOOST_TEST(r.header("content-type") == "text/event-stream; charset=utf-8");
  BOOST_TEST(r.header("cache-control") == "no-cache");
  auto e = events_of(r.body);
  BOOST_REQUIRE(e.size() == 7u);
  BOOST_TEST(string_at(json::parse(e[0]).at("choices").at(0).at("delta"), "role") == "assistant");
  BOOST_TEST(text_of(e) == "a b c ");
  BOOST_TEST(string_at(json::parse(e[4]).at("choices").at(0), "finish_reason") == "stop");
  BOOST_TEST(json::parse(e[5]).at("choices").as_array().empty());
  BOOST_TEST(json::parse(e[5]).at("usage").at("completion_tokens").as_int64() == 3);
  BOOST_TEST(e[6] == "[DONE]");
  std::string id;
  for (std::size_t i = 0; i < 6; ++i) {
    auto v = json::parse(e[i]);
    if (i == 0) id = string_at(v, "id");
    BOOST_TEST(string_at(v, "id") == id);
  }
  // without being asked for, no usage
  for (auto& line : events_of(s.ask(post("/v1/chat/completions", chat("say a", streamed))).body)) BOOST_TEST(line.find("usage") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(choices_are_streams_of_their_own) {
  served s;
  auto r = s.ask(post("/v1/completions", R"({"prompt":["say a b","count 2"],"n":3,"stream":true,"seed":1,"stream_options":{"include_usage":true}})"));
  auto e = events_of(r.body);
  for (int i = 0; i < 6; ++i) BOOST_TEST(text_of(e, i) == (i < 3 ? "a b " : "0 1 "));
  BOOST_TEST(e.back() == "[DONE]");
  auto use = json::parse(e[e.size() - 2]).at("usage");
  BOOST_TEST(use.at("prompt_tokens").as_int64() == 10);  // once per prompt
  BOOST_TEST(use.at("completion_tokens").as_int64() == 12);
  auto v = json::parse(s.ask(post("/v1/chat/completions", chat("echo", R"("n":3)"))).body);
  for (int i = 0; i < 3; ++i) {
    BOOST_TEST(v.at("choices").at(static_cast<std::size_t>(i)).at("index").as_int64() == i);
    BOOST_TEST(string_at(v.at("choices").at(static_cast<std::size_t>(i)).at("message"), "content").find("choice=" + std::to_string(i)) != std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(parameters_reach_the_engine) {
  served s({.request_timeout = 60s});
  auto v = json::parse(s.ask(post("/v1/chat/completions", chat("echo", R"("temperature":0.25,"max_tokens":9)"))).body);
  const std::string text = string_at(v.at("choices").at(0).at("message"), "content");
  BOOST_TEST(text.find("t=0.25 choice=0 max=9 deadline=1") != std::string::npos, text);
  v = json::parse(s.ask(post("/v1/chat/completions", chat("echo", R"("temperature":null)"))).body);
  const std::string silent = string_at(v.at("choices").at(0).at("message"), "content");
  BOOST_TEST(silent.find("t=0.75 ") != std::string::npos, silent);  // as the model recommends
}

BOOST_AUTO_TEST_CASE(a_model_that_is_not_served_is_not_found) {
  served s;
  auto r = s.ask(post("/v1/completions", R"({"model":"gpt","prompt":"say a"})"));
  BOOST_TEST(r.status == 404);
  BOOST_TEST(string_at(error_of(r), "code") == "model_not_found");
  BOOST_TEST(s.control().now().submitted == 0u);
}

BOOST_AUTO_TEST_CASE(a_full_engine_is_503_with_retry_after_and_a_full_share_429) {
  served s({.retry_after = 7s});
  for (auto& more : {std::string(), streamed}) {
    auto r = s.ask(post("/v1/completions", script("refuse overloaded", more)));
    BOOST_TEST(r.status == 503);
    BOOST_TEST(r.header("retry-after") == "7");
    BOOST_TEST(string_at(error_of(r), "code") == "overloaded");
    r = s.ask(post("/v1/completions", script("refuse too_many_requests", more)));
    BOOST_TEST(r.status == 429);
    BOOST_TEST(r.header("retry-after") == "7");
    BOOST_TEST(s.ask(post("/v1/completions", script("refuse shutting_down", more))).status == 503);
    BOOST_TEST(s.ask(post("/v1/completions", script("refuse invalid_argument", more))).status == 400);
  }
  // all choices or none
  auto r = s.ask(post("/v1/completions", script("limit 3", R"("n":5)")));
  BOOST_TEST(r.status == 503);
  BOOST_TEST(s.control().wait_for_cancelled(3));
  BOOST_TEST(s.control().now().open == 0u);
}

BOOST_AUTO_TEST_CASE(a_failure_before_the_first_text_is_a_status_even_of_a_stream) {
  served s;
  for (auto& more : {std::string(), streamed}) {
    auto r = s.ask(post("/v1/chat/completions", chat("fail context_exceeded", more)));
    BOOST_TEST(r.status == 400);
    BOOST_TEST(string_at(error_of(r), "code") == "context_length_exceeded");
    BOOST_TEST(s.ask(post("/v1/chat/completions", chat("fail rank_failed", more))).status == 500);
    BOOST_TEST(s.ask(post("/v1/chat/completions", chat("fail deadline_exceeded", more))).status == 408);
  }
  auto c = s.connect();
  c.send(post("/v1/completions", script("fail internal_error", streamed)) + get("/health"));
  BOOST_TEST(c.receive()->status == 500);
  BOOST_TEST(c.receive()->status == 200);
}

BOOST_AUTO_TEST_CASE(a_failure_in_mid_stream_is_an_event) {
  served s;
  auto r = s.ask(post("/v1/chat/completions", chat("break 3", streamed)));
  BOOST_TEST(r.status == 200);
  auto e = events_of(r.body);
  BOOST_TEST(text_of(e) == "0 1 2 ");
  BOOST_TEST(e.back() == "[DONE]");
  BOOST_TEST(string_at(json::parse(e[e.size() - 2]).at("error"), "code") == "rank_failed");
  BOOST_TEST(s.ask(post("/v1/chat/completions", chat("break 3"))).status == 500);
  // the other choices are cancelled with it
  r = s.ask(post("/v1/completions", R"({"prompt":["break 2","hang"],"stream":true})"));
  e = events_of(r.body);
  BOOST_TEST(string_at(json::parse(e[e.size() - 2]).at("error"), "code") == "rank_failed");
  BOOST_TEST(s.control().wait_for_cancelled(1));
}

BOOST_AUTO_TEST_CASE(a_client_that_goes_away_cancels_what_it_asked_for) {
  served s;
  std::uint64_t expected = 0;
  for (auto& verb : {std::string("hang"), std::string("tick 100000 1")})
    for (auto& more : {std::string(), streamed})
      for (int how = 0; how < 3; ++how) {
        auto c = s.connect();
        c.send(post("/v1/completions", script(verb, more)));
        for (int i = 0; i < 400 && s.control().now().submitted == expected; ++i) std::this_thread::sleep_for(1ms);
        if (verb != "hang" && !more.empty()) c.receive_until("data: ");
        if (how == 0) c.close();
        if (how == 1) c.reset();
        if (how == 2) c.finish_sending();
        BOOST_TEST(s.control().wait_for_cancelled(++expected), verb << ' ' << more << ' ' << how);
      }
  BOOST_TEST(s.control().now().open == 0u);
  // n choices, n cancels
  auto c = s.connect();
  c.send(post("/v1/completions", script("hang", R"("n":4)")));
  for (int i = 0; i < 400 && s.control().now().open < 4; ++i) std::this_thread::sleep_for(1ms);
  c.close();
  BOOST_TEST(s.control().wait_for_cancelled(expected + 4));
  for (int i = 0; i < 400 && s.server.connections() > 0; ++i) std::this_thread::sleep_for(5ms);
  BOOST_TEST(s.server.connections() == 0u);
  BOOST_TEST(s.metric("troupe:http_requests_total{route=\"/v1/completions\",code=\"499\"}") == std::to_string(expected + 1));
}

BOOST_AUTO_TEST_CASE(going_away_behind_a_pipelined_request_cancels_too) {
  served s;
  auto c = s.connect();
  c.send(post("/v1/completions", script("hang")) + get("/health"));
  for (int i = 0; i < 400 && s.control().now().open < 1; ++i) std::this_thread::sleep_for(1ms);
  c.close();
  BOOST_TEST(s.control().wait_for_cancelled(1));
}

BOOST_AUTO_TEST_CASE(sixty_four_streams_run_at_once_without_mixing) {
  for (std::uint32_t threads : {1u, 2u}) {
    served s({.threads = threads});
    std::vector<client> clients;
    for (int i = 0; i < 64; ++i) {
      clients.push_back(s.connect());
      clients.back().send(post("/v1/chat/completions", chat("tick " + std::to_string(20 + i) + " 2", streamed)));
    }
    for (int i = 0; i < 64; ++i) {
      auto r = clients[static_cast<std::size_t>(i)].receive();
      BOOST_REQUIRE(r.has_value());
      std::string expected;
      for (int k = 0; k < 20 + i; ++k) expected += std::to_string(k) + ' ';
      BOOST_TEST(text_of(events_of(r->body)) == expected);
    }
    BOOST_TEST(s.control().now().open == 0u);
  }
}

BOOST_AUTO_TEST_CASE(tokens_without_text_give_their_credit_back) {
  served s({}, 16);
  auto r = s.ask(post("/v1/completions", script("dumb 1000", streamed)));
  BOOST_TEST(events_of(r.body).size() == 2u);
  BOOST_TEST(s.ask(post("/v1/completions", script("count 1000"))).body.find("999 ") != std::string::npos);
  BOOST_TEST(text_of(events_of(s.ask(post("/v1/completions", script("count 1000", streamed))).body)).size() == 3890u);
}

BOOST_AUTO_TEST_CASE(a_reader_that_pauses_parks_its_stream_and_goes_on) {
  served s({.send_buffer_bytes = 4096}, 32);
  auto c = s.connect(4096);
  c.send(post("/v1/completions", script("flood 2000 1000", streamed)));
  std::this_thread::sleep_for(300ms);
  const auto parked = s.control().now().pieces;
  std::this_thread::sleep_for(200ms);
  BOOST_TEST(s.control().now().pieces == parked);  // nothing is computed for a reader that does not read
  BOOST_TEST(parked < 1000u);
  auto r = c.receive();
  BOOST_REQUIRE(r.has_value());
  BOOST_TEST(text_of(events_of(r->body)).size() == 2000000u);
}

BOOST_AUTO_TEST_CASE(a_reader_that_stays_away_is_cancelled_and_closed) {
  served s({.send_buffer_bytes = 4096, .write_timeout = 200ms}, 32);
  auto c = s.connect(4096);
  c.send(post("/v1/completions", script("flood 100000 1000", streamed)));
  BOOST_TEST(s.control().wait_for_cancelled(1));
  for (int i = 0; i < 400 && s.server.connections() > 0; ++i) std::this_thread::sleep_for(5ms);
  BOOST_TEST(s.server.connections() == 0u);
  // others are not held up by it
  auto slow = s.connect(4096);
  slow.send(post("/v1/completions", script("flood 100000 1000", streamed)));
  BOOST_TEST(s.ask(post("/v1/completions", script("say a"))).status == 200);
}

BOOST_AUTO_TEST_CASE(a_silent_stream_is_kept_alive_by_comments) {
  served s({.ping_interval = 50ms});
  auto c = s.connect();
  c.send(post("/v1/chat/completions", chat("late 300", streamed)));
  auto r = c.receive();
  BOOST_REQUIRE(r.has_value());
  BOOST_TEST(r->body.compare(0, 8, ": ping\n\n") == 0, r->body);
  BOOST_TEST(text_of(events_of(r->body)) == "at last");
  BOOST_TEST(events_of(r->body).back() == "[DONE]");
  // once a comment is out, a failure is an event
  c.send(post("/v1/completions", script("hang", streamed)));
  c.receive_until(": ping");
  s.server.drain();
}
