#include <boost/test/unit_test.hpp>

#include <boost/json.hpp>
#include <random>
#include <string>

#include "src/wire/request_parser.hpp"
#include "tests/wire/corpus.hpp"

using namespace troupe;
namespace json = boost::json;

namespace {

// Whatever comes back is either a usable request or an error that can be written as valid JSON.
template <class Parsed>
void check(const Parsed& r, const std::string& body) {
  if (r.ok()) return;
  BOOST_TEST(r.error().status == 400, body);
  BOOST_TEST(!r.error().message.empty());
  std::string out;
  wire::append_error(out, r.error());
  boost::system::error_code ec;
  auto v = json::parse(out, ec);
  BOOST_REQUIRE_MESSAGE(!ec, out);
  BOOST_TEST((v.at("error").at("message").as_string() == r.error().message));
}

void check_request(const wire::api_request& q) {
  BOOST_REQUIRE(!q.prompts.empty());
  BOOST_REQUIRE(q.choices() <= 128u);
  const auto& s = q.common.sampling;
  BOOST_TEST((s.temperature >= 0 && s.top_p > 0 && s.top_p <= 1 && s.min_p >= 0 && s.min_p < 1 && s.repetition_penalty > 0));
  BOOST_TEST((s.top_k >= -1));
  for (auto& text : q.common.stop) BOOST_TEST((!text.empty() && text.size() <= 256));
  for (auto& p : q.prompts)
    if (auto* chat = std::get_if<chat_prompt>(&p)) {
      for (auto& m : chat->messages)
        if (!m.extra_json.empty()) BOOST_TEST(json::parse(m.extra_json).is_object());
      if (!chat->tools_json.empty()) BOOST_TEST(json::parse(chat->tools_json).is_array());
      if (!chat->template_vars_json.empty()) BOOST_TEST(json::parse(chat->template_vars_json).is_object());
    }
}

void run_all(wire::request_parser& p, std::string body) {
  {
    auto r = p.chat(body);
    check(r, body);
    if (r.ok()) check_request(*r);
  }
  {
    auto r = p.completion(body);
    check(r, body);
    if (r.ok()) check_request(*r);
  }
  check(p.tokenize(body), body);
  check(p.detokenize(body), body);
}

std::vector<std::string> bodies() {
  auto all = chat_bodies();
  for (auto& b : completion_bodies()) all.push_back(b);
  all.push_back(R"({"content":"x","add_special":true})");
  all.push_back(R"({"tokens":[1,2,3]})");
  return all;
}

// Replaces one value somewhere in the tree with another one of another kind.
void replace_somewhere(json::value& v, std::mt19937& rng, int depth = 0) {
  static const char* others[] = {"null", "true", "-1", "1e308", "0.5", "9223372036854775807", "18446744073709551615", "\"\"",
                                 "\"\\u0000\"", "[]", "{}", "[[1]]", "[{}]", "{\"type\":\"text\"}", "\"none\"", "-0.0", "5e-324"};
  const bool into = depth == 0 || rng() % 3 != 0;
  if (into && v.is_object() && !v.get_object().empty()) {
    auto it = v.get_object().begin() + static_cast<std::ptrdiff_t>(rng() % v.get_object().size());
    return replace_somewhere(it->value(), rng, depth + 1);
  }
  if (into && v.is_array() && !v.get_array().empty()) return replace_somewhere(v.get_array()[rng() % v.get_array().size()], rng, depth + 1);
  v = json::parse(others[rng() % std::size(others)]);
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_prefix_of_a_valid_body_is_refused) {
  wire::request_parser p;
  for (auto& whole : bodies())
    for (std::size_t n = 0; n < whole.size(); ++n) {
      std::string body = whole.substr(0, n);
      BOOST_TEST(!p.chat(body).ok());
      BOOST_TEST(!p.completion(body).ok());
    }
}

BOOST_AUTO_TEST_CASE(broken_bytes_never_break_the_parser) {
  wire::request_parser p;
  std::mt19937 rng(1);
  const auto all = bodies();
  for (int round = 0; round < 20000; ++round) {
    std::string body = all[rng() % all.size()];
    for (unsigned k = 1 + rng() % 4; k > 0 && !body.empty(); --k) {
      const std::size_t at = rng() % body.size();
      switch (rng() % 5) {
        case 0: body[at] = static_cast<char>(rng()); break;
        case 1: body.erase(at, 1 + rng() % 8); break;
        case 2: body.insert(at, 1, "{}[],:\"\\0-e.tfn\xff\x80"[rng() % 18]); break;
        case 3: body.insert(at, body.substr(rng() % body.size(), rng() % 40)); break;
        case 4: body[at] = static_cast<char>(body[at] ^ (1 << rng() % 8)); break;
      }
    }
    run_all(p, body);
  }
}

BOOST_AUTO_TEST_CASE(random_bytes_never_break_the_parser) {
  wire::request_parser p;
  std::mt19937 rng(2);
  for (int round = 0; round < 5000; ++round) {
    std::string body(rng() % 200, '\0');
    for (char& c : body) c = static_cast<char>(rng());
    run_all(p, body);
  }
}

BOOST_AUTO_TEST_CASE(values_of_other_kinds_are_refused_or_usable) {
  wire::request_parser p;
  std::mt19937 rng(3);
  const auto all = bodies();
  for (int round = 0; round < 20000; ++round) {
    auto v = json::parse(all[rng() % all.size()]);
    for (unsigned k = 1 + rng() % 3; k > 0; --k) replace_somewhere(v, rng);
    run_all(p, json::serialize(v));
  }
}
