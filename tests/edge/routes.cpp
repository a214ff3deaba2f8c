#include "tests/edge/fixture.hpp"

using namespace troupe;
namespace json = boost::json;

BOOST_AUTO_TEST_CASE(every_get_route_answers) {
  served s;
  auto models = json::parse(s.ask(get("/v1/models")).body);
  BOOST_TEST(string_at(models.at("data").at(0), "id") == "fake");
  BOOST_TEST(models.at("data").at(0).at("max_model_len").as_int64() == 2048);
  BOOST_TEST(string_at(json::parse(s.ask(get("/v1/models/fake")).body), "id") == "fake");
  BOOST_TEST(s.ask(get("/v1/models/f%61ke?x=1")).status == 200);
  BOOST_TEST(s.ask(get("/v1/models/other")).status == 404);
  BOOST_TEST(s.ask(get("/health")).status == 200);
  BOOST_TEST(s.ask(get("/health?probe=1#x")).status == 200);
  BOOST_TEST(s.ask(get("http://host:80/health")).status == 200);
  BOOST_TEST(s.ask(get("/ready")).status == 200);
  BOOST_TEST(json::parse(s.ask(get("/version")).body).as_object().contains("version"));
  auto metrics = s.ask(get("/metrics"));
  BOOST_TEST(metrics.header("content-type") == "text/plain; version=0.0.4; charset=utf-8");
  BOOST_TEST(metrics.body.find("vllm:num_requests_running 0") != std::string::npos);
  BOOST_TEST(s.metric("troupe:http_requests_total{route=\"/v1/models\",code=\"200\"}") == "1");
  BOOST_TEST(s.metric("troupe:http_requests_total{route=\"/v1/models/{model}\",code=\"404\"}") == "1");
}

BOOST_AUTO_TEST_CASE(readiness_follows_the_engine) {
  served s;
  s.control().set_status({.ready = false});
  auto r = s.ask(get("/ready"));
  BOOST_TEST(r.status == 503);
  BOOST_TEST(r.header("retry-after") == "1");
  BOOST_TEST(s.ask(get("/health")).status == 200);
  s.control().set_status({.ready = true, .draining = true});
  BOOST_TEST(s.ask(get("/ready")).status == 503);
  s.control().set_status({.ready = true, .failed = true});
  BOOST_TEST(string_at(error_of(s.ask(get("/ready"))), "code") == "rank_failed");
  BOOST_TEST(s.ask(get("/health")).status == 503);
}

BOOST_AUTO_TEST_CASE(a_head_request_gets_the_head_of_a_get) {
  served s;
  auto c = s.connect();
  c.send("HEAD /v1/models HTTP/1.1\r\nHost: x\r\n\r\n");
  auto r = c.receive(true);
  BOOST_REQUIRE(r.has_value());
  BOOST_TEST(r->status == 200);
  BOOST_TEST(std::stoul(r->header("content-length")) > 50u);
  c.send(get("/health"));  // the next response begins where the head ended
  BOOST_TEST(c.receive()->status == 200);
}

BOOST_AUTO_TEST_CASE(wrong_paths_and_methods_are_told_in_openais_shape) {
  served s;
  auto none = s.ask(get("/v2/nothing"));
  BOOST_TEST(none.status == 404);
  BOOST_TEST(string_at(error_of(none), "type") == "invalid_request_error");
  auto method = s.ask(get("/v1/chat/completions"));
  BOOST_TEST(method.status == 405);
  BOOST_TEST(method.header("allow") == "POST, OPTIONS");
  error_of(method);
  auto put = s.ask("DELETE /v1/models HTTP/1.1\r\nHost: x\r\n\r\n");
  BOOST_TEST(put.status == 405);
  BOOST_TEST(put.header("allow") == "GET, HEAD, OPTIONS");
  BOOST_TEST(s.ask("BREW /health HTTP/1.1\r\nHost: x\r\n\r\n").status == 405);
  // a refusal without a body under way keeps the connection
  auto c = s.connect();
  c.send(get("/nothing") + get("/v1/completions") + get("/health"));
  BOOST_TEST(c.receive()->status == 404);
  BOOST_TEST(c.receive()->status == 405);
  BOOST_TEST(c.receive()->status == 200);
}

BOOST_AUTO_TEST_CASE(keys_guard_everything_but_health_and_readiness) {
  served s({.api_keys = {"first", "second"}});
  auto r = s.ask(get("/v1/models"));
  BOOST_TEST(r.status == 401);
  BOOST_TEST(r.header("www-authenticate") == "Bearer");
  BOOST_TEST(string_at(error_of(r), "type") == "authentication_error");
  for (const char* path : {"/metrics", "/version", "/v1/models/fake"}) BOOST_TEST(s.ask(get(path)).status == 401, path);
  for (const char* path : {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"})
    BOOST_TEST(s.ask(post(path, "{}")).status == 401, path);
  BOOST_TEST(s.ask(get("/health")).status == 200);
  BOOST_TEST(s.ask(get("/ready")).status == 200);
  BOOST_TEST(s.ask(get("/v1/models", "Authorization: Bearer second\r\n")).status == 200);
  BOOST_TEST(s.ask(get("/v1/models", "authorization: bearer   first\r\n")).status == 200);
  for (const char* bad : {"Bearer firs", "Bearer firstt", "Bearer ", "Bearer", "first", "Basic first", ""})
    BOOST_TEST(s.ask(get("/v1/models", std::string("Authorization: ") + bad + "\r\n")).status == 401, bad);
  BOOST_TEST(s.control().now().submitted == 0u);
  served open({.api_keys = {"k"}, .open_metrics = true});
  BOOST_TEST(open.ask(get("/metrics")).status == 200);
}

BOOST_AUTO_TEST_CASE(browsers_are_let_in_only_by_configuration) {
  served closed;
  BOOST_TEST(closed.ask(get("/health", "Origin: http://a\r\n")).header("access-control-allow-origin") == "");
  served s({.cors_origin = "http://a"});
  auto r = s.ask("OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: http://a\r\nAccess-Control-Request-Method: POST\r\n\r\n");
  BOOST_TEST(r.status == 204);
  BOOST_TEST(r.header("access-control-allow-origin") == "http://a");
  BOOST_TEST(r.header("access-control-allow-methods") == "POST, OPTIONS");
  BOOST_TEST(s.ask(get("/v1/models")).header("access-control-allow-origin") == "http://a");
}

BOOST_AUTO_TEST_CASE(a_request_id_is_echoed_if_it_may_stand_in_a_header) {
  served s;
  BOOST_TEST(s.ask(get("/health", "X-Request-Id: abc-1\r\n")).header("x-request-id") == "abc-1");
  auto made = s.ask(get("/health")).header("x-request-id");
  BOOST_TEST(made.size() == 24u);
  BOOST_TEST(s.ask(get("/health", "X-Request-Id: " + std::string(200, 'a') + "\r\n")).header("x-request-id").size() == 24u);
  BOOST_TEST(s.ask(get("/health", "X-Request-Id: a b\r\n")).header("x-request-id").size() == 24u);
  auto r = s.ask(post("/v1/completions", script("echo"), "X-Request-Id: mine\r\n"));
  auto v = json::parse(r.body);
  BOOST_TEST(string_at(v, "id") == "cmpl-mine");
  BOOST_TEST(r.header("x-request-id") == "mine");
  BOOST_TEST(r.body.find("id=mine ") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(tokenize_and_detokenize_use_the_engines_tokenizer) {
  served s;
  auto r = s.ask(post("/tokenize", R"({"prompt":"ab"})"));
  BOOST_TEST(r.body == R"({"tokens":[1,97,98],"count":3,"max_model_len":2048})");
  BOOST_TEST(s.ask(post("/tokenize", R"({"content":"ab"})")).body == R"({"tokens":[97,98],"count":2,"max_model_len":2048})");
  auto chat = json::parse(s.ask(post("/tokenize", R"({"messages":[{"role":"u","content":"x"}]})")).body);
  BOOST_TEST(chat.at("count").as_int64() == 4);
  auto d = json::parse(s.ask(post("/detokenize", R"({"tokens":[104,105]})")).body);
  BOOST_TEST(string_at(d, "content") == "hi");
  auto bad = s.ask(post("/tokenize", R"({"prompt":"ab!"})"));
  BOOST_TEST(bad.status == 400);
  BOOST_TEST(string_at(error_of(bad), "message") == "no exclamation marks: calm down");
  BOOST_TEST(s.ask(post("/tokenize", R"({"prompt":5})")).status == 400);
  BOOST_TEST(s.ask(post("/detokenize", R"({"tokens":"x"})")).status == 400);
  BOOST_TEST(s.ask(post("/tokenize", R"({"model":"other","prompt":"x"})")).status == 404);
}

BOOST_AUTO_TEST_CASE(an_address_in_use_is_an_error_of_start) {
  served s;
  for (std::uint32_t threads : {1u, 2u}) {
    edge::server second(s.engine, {.port = s.server.port(), .threads = threads});
    BOOST_CHECK_THROW(second.start(), troupe::error);
  }
  served two({.threads = 2});
  edge::server third(two.engine, {.port = two.server.port(), .threads = 2});
  BOOST_CHECK_THROW(third.start(), troupe::error);
  edge::server elsewhere(s.engine, {.host = "203.0.113.7", .port = 0});
  BOOST_CHECK_THROW(elsewhere.start(), troupe::error);
}
