#include "tests/edge/fixture.hpp"

#include <random>
#include <thread>

using namespace troupe;
using namespace std::chrono_literals;

namespace {

void rest() { std::this_thread::sleep_for(1ms); }

std::string chunked_post(std::string_view path, std::string_view body, std::size_t size) {
  std::string out = "POST " + std::string(path) + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (std::size_t at = 0; at < body.size(); at += size) {
    const auto part = body.substr(at, size);
    char length[16];
    std::snprintf(length, sizeof length, "%zx\r\n", part.size());
    out += length + std::string(part) + "\r\n";
  }
  return out + "0\r\n\r\n";
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_request_split_at_any_byte_is_the_same_request) {
  served s;
  const std::string whole = post("/v1/completions", script("say a b"));
  auto c = s.connect();
  for (std::size_t cut = 1; cut < whole.size(); ++cut) {
    BOOST_REQUIRE(c.send(whole.substr(0, cut)));
    rest();
    BOOST_REQUIRE(c.send(whole.substr(cut)));
    auto r = c.receive();
    BOOST_REQUIRE(r.has_value());
    BOOST_TEST(r->status == 200, "cut at " << cut);
    BOOST_TEST(r->body.find("\"a b \"") != std::string::npos);
  }
  BOOST_TEST(s.control().now().submitted == whole.size() - 1);
}

BOOST_AUTO_TEST_CASE(a_chunked_body_split_at_any_byte_is_the_same_request) {
  served s;
  const std::string whole = chunked_post("/v1/completions", script("say a b"), 7);
  auto c = s.connect();
  for (std::size_t cut = 1; cut < whole.size(); ++cut) {
    BOOST_REQUIRE(c.send(whole.substr(0, cut)));
    rest();
    BOOST_REQUIRE(c.send(whole.substr(cut)));
    auto r = c.receive();
    BOOST_REQUIRE(r.has_value());
    BOOST_TEST(r->status == 200, "cut at " << cut);
  }
}

BOOST_AUTO_TEST_CASE(a_request_may_arrive_byte_by_byte) {
  served s;
  auto c = s.connect();
  for (char b : post("/v1/completions", script("say a b", R"("stream":true)"))) {
    BOOST_REQUIRE(c.send({&b, 1}));
    std::this_thread::sleep_for(100us);
  }
  BOOST_TEST(text_of(events_of(c.receive()->body)) == "a b ");
}

BOOST_AUTO_TEST_CASE(pipelined_requests_are_answered_in_order) {
  served s;
  auto c = s.connect();
  std::string all;
  for (int i = 0; i < 50; ++i)
    all += i % 3 == 0 ? get("/health", "X-Request-Id: r" + std::to_string(i) + "\r\n")
                      : post("/v1/completions", script("say w" + std::to_string(i), i % 3 == 1 ? R"("stream":true)" : ""),
                             "X-Request-Id: r" + std::to_string(i) + "\r\n");
  c.send("\r\n\r\n" + all);  // blank lines before a request are skipped
  for (int i = 0; i < 50; ++i) {
    auto r = c.receive();
    BOOST_REQUIRE(r.has_value());
    BOOST_TEST(r->status == 200);
    BOOST_TEST(r->header("x-request-id") == "r" + std::to_string(i));
    if (i % 3 == 1) BOOST_TEST(text_of(events_of(r->body)) == "w" + std::to_string(i) + " ");
  }
}

BOOST_AUTO_TEST_CASE(more_than_is_read_ahead_may_be_pipelined_behind_a_slow_answer) {
  served s;
  auto c = s.connect();
  c.send(post("/v1/completions", script("late 50")));
  const std::string padded = get("/health", "X-Padding: " + std::string(8000, 'p') + "\r\n");
  std::thread sender([&] {
    for (int i = 0; i < 60; ++i) c.send(padded);
  });
  BOOST_TEST(c.receive()->status == 200);
  for (int i = 0; i < 60; ++i) BOOST_TEST(c.receive()->status == 200);
  sender.join();
}

BOOST_AUTO_TEST_CASE(what_is_not_http_gets_400_and_the_connection_ends) {
  served s;
  for (std::string bad : {"hello\r\n\r\n", "GET\r\n\r\n", "GET /health\r\n\r\n", "GET /health HTTP/3.0\r\nHost: x\r\n\r\n", "GET  HTTP/1.1\r\nHost: x\r\n\r\n",
                          "GET /health HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", "GET /health HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n",
                          "GET /health HTTP/1.1\r\nHost: x\r\nA: \x01\r\n\r\n", "GET /health HTTP/1.1\r\n\r\n", "GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
                          "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5x\r\n\r\n",
                          "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                          "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
                          "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                          "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"}) {
    auto c = s.connect();
    c.send(bad);
    auto r = c.receive();
    BOOST_REQUIRE_MESSAGE(r.has_value(), bad);
    BOOST_TEST(r->status == 400, bad << " → " << r->status);
    BOOST_TEST(string_at(error_of(*r), "type") == "invalid_request_error");
    if (bad.find("GET /health HTTP/1.1\r\n\r\n") == std::string::npos && bad.find("Host: y") == std::string::npos && bad.find("HTTP/3") == std::string::npos)
      BOOST_TEST(c.closed_within(3s), bad);
  }
  for (std::string bad : {"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"})
    BOOST_TEST(s.ask(bad).status == 501, bad);
}

BOOST_AUTO_TEST_CASE(random_bytes_never_hurt_the_server) {
  served s;
  std::mt19937 rng(5);
  const std::string valid = post("/v1/completions", script("say a"));
  for (int round = 0; round < 300; ++round) {
    std::string bytes = valid;
    if (round % 3 == 0) {
      bytes.assign(rng() % 300, '\0');
      for (char& b : bytes) b = static_cast<char>(rng());
    } else {
      for (unsigned k = 1 + rng() % 3; k > 0; --k) bytes[rng() % bytes.size()] = static_cast<char>(rng());
    }
    auto c = s.connect();
    c.send(bytes);
    c.finish_sending();
    c.closed_within(3s);
  }
  BOOST_TEST(s.ask(get("/health")).status == 200);
  for (int i = 0; i < 400 && s.server.connections() > 0; ++i) std::this_thread::sleep_for(5ms);
  BOOST_TEST(s.server.connections() == 0u);
  BOOST_TEST(s.control().wait_for_all_ended());
}

BOOST_AUTO_TEST_CASE(headers_and_bodies_over_the_limit_are_refused) {
  served s({.max_header_bytes = 1024, .max_body_bytes = 2000});
  auto header = s.ask(get("/health", "X-Long: " + std::string(2000, 'a') + "\r\n"));
  BOOST_TEST(header.status == 431);
  BOOST_TEST(string_at(error_of(header), "code") == "header_too_large");
  // without an end in sight, too
  auto c = s.connect();
  c.send("GET /" + std::string(5000, 'a'));
  BOOST_TEST(c.receive()->status == 431);
  BOOST_TEST(c.closed_within(3s));
  // the size alone decides, before a byte of the body is sent
  auto d = s.connect();
  d.send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 2001\r\n\r\n");
  BOOST_TEST(d.receive()->status == 413);
  BOOST_TEST(d.closed_within(3s));
  // a client that sends it all first still gets to read the answer
  auto big = s.ask(post("/tokenize", std::string(300000, ' ')));
  BOOST_TEST(big.status == 413);
  BOOST_TEST(big.header("connection") == "close");
  auto chunked = s.ask(chunked_post("/tokenize", std::string(3000, ' '), 100));
  BOOST_TEST(chunked.status == 413);
  BOOST_TEST(s.ask(post("/tokenize", R"({"prompt":")" + std::string(1900, 'a') + "\"}")).status == 200);
}

BOOST_AUTO_TEST_CASE(a_body_of_eight_megabytes_is_taken) {
  served s;
  auto r = s.ask(post("/tokenize", R"({"content":")" + std::string((8 << 20) - 14, 'a') + "\"}"));
  BOOST_TEST(r.status == 200);
}

BOOST_AUTO_TEST_CASE(a_slow_header_or_body_times_out) {
  served s({.header_timeout = 100ms, .body_timeout = 150ms, .idle_timeout = 300ms});
  auto c = s.connect();
  c.send("GET /health HTTP/1.1\r\nHo");
  auto late = c.receive();
  BOOST_REQUIRE(late.has_value());
  BOOST_TEST(late->status == 408);
  BOOST_TEST(c.closed_within(3s));
  // dripping bytes does not help
  auto d = s.connect();
  const auto begin = std::chrono::steady_clock::now();
  d.send("GET /health HTTP/1.1\r\nX: ");
  while (d.send("a") && !d.closed_within(10ms)) BOOST_REQUIRE(std::chrono::steady_clock::now() - begin < 3s);
  auto e = s.connect();
  e.send("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
  BOOST_TEST(e.receive()->status == 408);
  // nothing at all: closed without a word
  auto idle = s.connect();
  BOOST_TEST(idle.receive_all() == "");
  auto kept = s.connect();
  kept.send(get("/health"));
  BOOST_TEST(kept.receive()->status == 200);
  BOOST_TEST(kept.closed_within(3s));
}

BOOST_AUTO_TEST_CASE(a_client_that_expects_to_be_asked_is_asked) {
  served s;
  auto c = s.connect();
  const std::string body = R"({"prompt":"ab"})";
  c.send("POST /tokenize HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n");
  BOOST_TEST(c.receive()->status == 100);
  c.send(body);
  BOOST_TEST(c.receive()->status == 200);
  // one that does not wait is not asked
  c.send(post("/tokenize", body, "Expect: 100-continue\r\n"));
  BOOST_TEST(c.receive()->status == 200);
  // one that would be refused is refused at once
  auto d = s.connect();
  d.send("POST /tokenize HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n");
  BOOST_TEST(d.receive()->status == 413);
  BOOST_TEST(s.ask(post("/tokenize", body, "Expect: miracles\r\n")).status == 417);
}

BOOST_AUTO_TEST_CASE(the_body_must_be_json_by_type_and_by_content) {
  served s;
  BOOST_TEST(s.ask("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}").status == 415);
  BOOST_TEST(s.ask("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: Application/JSON ; charset=utf-8\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}").status == 200);
  BOOST_TEST(s.ask("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}").status == 200);
  // What curl -d says by itself is taken from programs; from a page, which can send it anywhere unasked, it is not.
  const std::string form = "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 14\r\n";
  const std::string rest = "\r\n{\"prompt\":\"a\"}", page = "Origin: https://elsewhere.example\r\n";
  BOOST_TEST(s.ask(form + rest).status == 200);
  BOOST_TEST(s.ask(form + page + rest).status == 415);
  BOOST_TEST(s.ask("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n" + page + rest).status == 415);
  BOOST_TEST(s.ask("POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 14\r\n" + page + rest).status == 200);
  auto empty = s.ask("POST /tokenize HTTP/1.1\r\nHost: x\r\n\r\n");
  BOOST_TEST(empty.status == 400);
  BOOST_TEST(string_at(error_of(empty), "message") == "the body is not valid JSON: it is empty");
  auto bad = s.ask(post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"x"}],"top_p":7})"));
  BOOST_TEST(bad.status == 400);
  BOOST_TEST(string_at(error_of(bad), "param") == "top_p");
  // a bad body ends the request, not the connection
  auto c = s.connect();
  c.send(post("/v1/completions", "{") + get("/health"));
  BOOST_TEST(c.receive()->status == 400);
  BOOST_TEST(c.receive()->status == 200);
}

BOOST_AUTO_TEST_CASE(http_1_0_and_connection_close_are_respected) {
  served s;
  auto c = s.connect();
  c.send("GET /health HTTP/1.0\r\n\r\n");
  auto r = c.receive();
  BOOST_TEST(r->header("connection") == "close");
  BOOST_TEST(c.closed_within(3s));
  auto k = s.connect();
  k.send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  BOOST_TEST(k.receive()->header("connection") == "keep-alive");
  k.send(get("/health", "Connection: close\r\n"));
  BOOST_TEST(k.receive()->header("connection") == "close");
  BOOST_TEST(k.closed_within(3s));
  // without chunks, a stream lasts until the connection ends
  auto old = s.connect();
  const std::string body = script("say a b", R"("stream":true)");
  old.send("POST /v1/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  auto stream = old.receive();
  BOOST_REQUIRE(stream.has_value());
  BOOST_TEST(stream->header("transfer-encoding") == "");
  BOOST_TEST(text_of(events_of(stream->body)) == "a b ");
}

BOOST_AUTO_TEST_CASE(connections_over_the_limit_are_told_so) {
  served s({.max_connections = 2});
  auto a = s.connect(), b = s.connect();
  a.send(get("/health"));
  b.send(get("/health"));
  BOOST_TEST(a.receive()->status == 200);
  BOOST_TEST(b.receive()->status == 200);
  auto c = s.connect();
  auto r = c.receive();
  BOOST_REQUIRE(r.has_value());
  BOOST_TEST(r->status == 503);
  BOOST_TEST(r->header("retry-after") == "1");
  BOOST_TEST(c.closed_within(3s));
  a.close();
  for (int i = 0; i < 400 && s.server.connections() > 1; ++i) std::this_thread::sleep_for(5ms);
  BOOST_TEST(s.ask(get("/health")).status == 200);
}
