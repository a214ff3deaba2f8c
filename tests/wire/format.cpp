#include <boost/test/unit_test.hpp>

#include <boost/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "src/wire/api_error.hpp"
#include "src/wire/json_text.hpp"
#include "src/wire/response.hpp"

using namespace troupe;
namespace json = boost::json;

namespace {

std::string quoted(std::string_view text) {
  std::string out;
  wire::append_string(out, text);
  return out;
}

// The payloads of `data:` events; fails on anything that is not framed so.
std::vector<std::string> events(std::string_view stream) {
  std::vector<std::string> out;
  while (!stream.empty()) {
    const auto end = stream.find("\n\n");
    BOOST_REQUIRE(end != std::string_view::npos);
    auto event = stream.substr(0, end);
    BOOST_TEST(event.find('\n') == std::string_view::npos);
    if (event.rfind("data: ", 0) == 0) out.emplace_back(event.substr(6));
    else BOOST_TEST(event[0] == ':');
    stream.remove_prefix(end + 2);
  }
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(strings_are_escaped_as_json_asks) {
  BOOST_TEST(quoted("plain") == "\"plain\"");
  BOOST_TEST(quoted("a\"b\\c\n\r\t\b\f") == R"("a\"b\\c\n\r\t\b\f")");
  BOOST_TEST(quoted(std::string_view("\0\x1f\x7f", 3)) == R"("\u0000\u001f\u007f")");
  BOOST_TEST(quoted("grüße 中 🎭") == "\"grüße 中 🎭\"");
}

BOOST_AUTO_TEST_CASE(bytes_that_are_not_utf8_become_replacement_characters) {
  const std::string r = "\xef\xbf\xbd";
  BOOST_TEST(quoted("a\x80z") == "\"a" + r + "z\"");
  BOOST_TEST(quoted("\xe4\xb8") == "\"" + r + "\"");            // cut sequence: one
  BOOST_TEST(quoted("\xe4\xb8\"") == "\"" + r + "\\\"\"");      // the quote after it is kept and escaped
  BOOST_TEST(quoted("\xc0\x80") == "\"" + r + r + "\"");        // overlong: one per byte
  BOOST_TEST(quoted("\xed\xa0\x80") == "\"" + r + r + r + "\"");  // surrogate
  BOOST_TEST(quoted("\xf4\x90\x80\x80") == "\"" + r + r + r + r + "\"");  // above U+10FFFF
  BOOST_TEST(quoted("\xf0\x9f\x8e") == "\"" + r + "\"");
  BOOST_TEST(quoted("\xff\xfe") == "\"" + r + r + "\"");
}

BOOST_AUTO_TEST_CASE(any_bytes_make_a_json_string) {
  std::mt19937 rng(7);
  for (int round = 0; round < 20000; ++round) {
    std::string text(rng() % 24, '\0');
    const bool high = rng() % 2;
    for (char& c : text) c = static_cast<char>(high ? rng() | 0x80 : rng());
    boost::system::error_code ec;
    auto v = json::parse(quoted(text), ec);
    BOOST_REQUIRE(!ec);
    if (text.find_first_of("\x80\xff") == std::string::npos && !high) {
      bool ascii = true;
      for (unsigned char c : text) ascii &= c < 0x80;
      if (ascii) BOOST_TEST((v.as_string() == text));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_chat_stream_has_role_deltas_finish_usage_done) {
  wire::response_writer w(wire::api_kind::chat, "r\"1", "m", 1700000000, true);
  std::string out;
  w.role(out, 1);
  w.delta(out, 1, "a\nb\n\n\"");
  wire::append_ping(out);
  w.finish(out, 1, finish_reason::stop, "END");
  w.usage(out, {.prompt_tokens = 3, .completion_tokens = 2, .cached_tokens = 1});
  wire::append_done(out);
  auto e = events(out);
  BOOST_REQUIRE(e.size() == 5u);
  BOOST_TEST(e[4] == "[DONE]");
  auto role = json::parse(e[0]);
  BOOST_TEST((role == json::parse(R"({"id":"chatcmpl-r\"1","object":"chat.completion.chunk","created":1700000000,"model":"m",
      "choices":[{"index":1,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null})")));
  auto delta = json::parse(e[1]).at("choices").at(0);
  BOOST_TEST((delta.at("delta").at("content").as_string() == "a\nb\n\n\""));
  auto last = json::parse(e[2]).at("choices").at(0);
  BOOST_TEST((last.at("finish_reason").as_string() == "stop"));
  BOOST_TEST((last.at("stop_reason").as_string() == "END"));
  BOOST_TEST(last.at("delta").as_object().empty());
  auto use = json::parse(e[3]);
  BOOST_TEST(use.at("choices").as_array().empty());
  BOOST_TEST((use.at("usage") == json::parse(R"({"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":1}})")));
}

BOOST_AUTO_TEST_CASE(a_completion_stream_carries_text_and_no_role) {
  wire::response_writer w(wire::api_kind::completion, "x", "m", 1, false);
  std::string out;
  w.role(out, 0);
  BOOST_TEST(out.empty());
  w.delta(out, 0, "hi");
  w.finish(out, 0, finish_reason::length, {});
  auto e = events(out);
  BOOST_TEST((json::parse(e[0]) == json::parse(R"({"id":"cmpl-x","object":"text_completion","created":1,"model":"m",
      "choices":[{"index":0,"text":"hi","logprobs":null,"finish_reason":null}]})")));
  BOOST_TEST((json::parse(e[1]).at("choices").at(0) ==
              json::parse(R"({"index":0,"text":"","logprobs":null,"finish_reason":"length","stop_reason":null})")));
}

BOOST_AUTO_TEST_CASE(a_whole_answer_holds_every_choice) {
  const std::vector<wire::choice_text> choices = {{0, "a", finish_reason::stop, {}}, {1, "\"b\"", finish_reason::length, {}}};
  std::string out;
  wire::response_writer(wire::api_kind::chat, "x", "m", 1, false).whole(out, choices, {.prompt_tokens = 4, .completion_tokens = 6});
  auto v = json::parse(out);
  BOOST_TEST((v.at("object").as_string() == "chat.completion"));
  BOOST_TEST((v.at("choices").at(1).at("message").at("content").as_string() == "\"b\""));
  BOOST_TEST((v.at("choices").at(1).at("finish_reason").as_string() == "length"));
  BOOST_TEST(v.at("usage").at("total_tokens").as_int64() == 10);
  out.clear();
  wire::response_writer(wire::api_kind::completion, "x", "m", 1, false).whole(out, choices, {});
  v = json::parse(out);
  BOOST_TEST((v.at("object").as_string() == "text_completion"));
  BOOST_TEST((v.at("choices").at(0).at("text").as_string() == "a"));
}

BOOST_AUTO_TEST_CASE(errors_have_openais_shape_and_the_status_of_their_code) {
  std::string out;
  wire::append_error(out, wire::field_error("messages[0].role", "messages[0].role: missing: send it", "missing_field"));
  BOOST_TEST((json::parse(out) == json::parse(R"({"error":{"message":"messages[0].role: missing: send it","type":"invalid_request_error",
      "param":"messages[0].role","code":"missing_field"}})")));
  out.clear();
  wire::append_error(out, wire::http_error(405, "no"));
  BOOST_TEST(json::parse(out).at("error").at("param").is_null());
  BOOST_TEST(json::parse(out).at("error").at("code").is_null());

  BOOST_TEST(wire::http_status(errc::invalid_argument) == 400);
  BOOST_TEST(wire::http_status(errc::not_found) == 404);
  BOOST_TEST(wire::http_status(errc::context_exceeded) == 400);
  BOOST_TEST(wire::http_status(errc::too_many_requests) == 429);
  BOOST_TEST(wire::http_status(errc::overloaded) == 503);
  BOOST_TEST(wire::http_status(errc::draining) == 503);
  BOOST_TEST(wire::http_status(errc::deadline_exceeded) == 408);
  BOOST_TEST(wire::http_status(errc::rank_failed) == 500);
  BOOST_TEST(wire::http_status(std::make_error_code(std::errc::io_error)) == 500);
  auto e = wire::to_api_error(errc::overloaded, "");
  BOOST_TEST(e.message == "overloaded");
  BOOST_TEST(e.type == "server_error");
  BOOST_TEST(wire::to_api_error(errc::too_many_requests, "x").type == "rate_limit_error");
}

BOOST_AUTO_TEST_CASE(small_objects_parse_back) {
  std::string out;
  wire::append_models(out, "a \"model\"", 5, 2048);
  auto v = json::parse(out);
  BOOST_TEST((v.at("data").at(0).at("id").as_string() == "a \"model\""));
  BOOST_TEST(v.at("data").at(0).at("max_model_len").as_int64() == 2048);
  out.clear();
  wire::append_tokens(out, std::vector<std::int32_t>{1, 22, 333}, 7);
  BOOST_TEST(out == R"({"tokens":[1,22,333],"count":3,"max_model_len":7})");
  out.clear();
  wire::append_detokenized(out, "x\xff");
  BOOST_TEST((json::parse(out).at("content").as_string() == "x\xef\xbf\xbd"));
}
