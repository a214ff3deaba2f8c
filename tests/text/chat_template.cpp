// Chat templates against what transformers renders (tests/data/make_chat.py).
#include "src/text/chat_template.hpp"

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <thread>

#include "src/text/jinja_repr.hpp"
#include "tests/text/jinja_fixture.hpp"

using namespace jinja_tests;
using troupe::errc;
using troupe::text::chat_context;
using troupe::text::chat_template;
namespace jinja = troupe::text::jinja;

namespace {

std::string file(const std::string& name) {
  std::ifstream in(std::string(TROUPE_TEST_DATA) + "/text/" + name, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::string dump(const value& v) {
  jinja::limits l;
  struct : jinja::runtime {
    using runtime::runtime;
    value call(const value&, jinja::call_args) override { return {}; }
  } rt(l);
  return jinja::to_json(rt, v, {});
}

int number(const value& list, std::size_t i) { return static_cast<int>(list.items()[i].as_integer()); }

void check_file(const std::string& name, std::size_t least) {
  const auto lines = lines_of(name);
  BOOST_REQUIRE(lines.size() > 1);
  const value first = json(lines[0]);
  const auto& talks = member(first, "conversations")->items();
  std::size_t cases = 0;
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const value t = json(lines[i]);
    const std::string template_name = text_of(t, "name");
    std::string source = text_of(t, "template");
    if (source.rfind("chat_styles/", 0) == 0) source = file(source);
    const auto parsed = chat_template::parse(source);
    BOOST_REQUIRE_MESSAGE(parsed.ok(), template_name << ": " << (parsed ? "" : parsed.error().message));
    for (const value& c : member(t, "cases")->items()) {
      const value& talk = talks[static_cast<std::size_t>(member(c, "c")->as_integer())];
      const value* tools = member(talk, "tools");
      const value* vars = member(c, "vars");
      auto context =
          chat_context::from_json(dump(*member(talk, "messages")), tools ? dump(*tools) : "", vars ? dump(*vars) : "");
      BOOST_REQUIRE(context.ok());
      context->add_generation_prompt = member(c, "g")->as_bool();
      for (const auto& [k, v] : member(t, "special_tokens")->as<dict_object>().items) {
        context->special_tokens.emplace_back(k.text(), v.text());
      }
      if (const value* now = member(t, "now")) {
        context->now = jinja::civil_time{number(*now, 0), number(*now, 1), number(*now, 2),
                                         number(*now, 3), number(*now, 4), number(*now, 5)};
      }
      const auto got = parsed->render(*context);
      const std::string where = template_name + ", conversation " + std::to_string(member(c, "c")->as_integer());
      ++cases;
      if (member(c, "r")) {
        BOOST_CHECK_MESSAGE(got.ok(), where << ": " << (got ? "" : got.error().message));
        if (got)
          BOOST_CHECK_MESSAGE(*got == text_of(c, "r"), where << "\ngave   " << *got << "\nwanted " << text_of(c, "r"));
        continue;
      }
      const std::string wanted = text_of(c, "e"), raised = "TemplateError: ";
      BOOST_CHECK_MESSAGE(!got.ok(), where << ": rendered, wanted " << wanted);
      if (got) continue;
      BOOST_CHECK((got.error().code == errc::invalid_argument));
      if (wanted.rfind(raised, 0) != 0) continue;
      // The fixture cuts long messages.
      BOOST_TEST(got.error().message.substr(0, 100) == wanted.substr(raised.size(), 100), where);
    }
  }
  BOOST_TEST(cases >= least);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(chat_templates)

BOOST_AUTO_TEST_CASE(templates_of_models_render_as_in_transformers) { check_file("chat_models.jsonl", 400); }

BOOST_AUTO_TEST_CASE(templates_in_public_styles_render_as_in_transformers) { check_file("chat_styles.jsonl", 300); }

BOOST_AUTO_TEST_CASE(a_prompt_of_the_api_is_a_context) {
  troupe::chat_prompt p;
  p.messages.push_back({"user", "hi", R"({"name": "ann", "role": "ignored", "content": [1]})"});
  p.messages.push_back({"assistant", "yo", R"({"reasoning": "why"})"});
  p.tools_json = R"([{"type": "function"}])";
  p.template_vars_json = R"({"mode": "x", "messages": "not these"})";
  p.add_generation_prompt = false;
  const auto c = chat_context::from_prompt(p);
  BOOST_REQUIRE(c.ok());
  const auto t = chat_template::parse(
      "{{ messages[0].role }}{{ messages[0].content }}{{ messages[0].name }}|{{ messages[1].reasoning_content }}"
      "{{ messages[1].thinking }}|{{ tools|length }}|{{ mode }}|{{ add_generation_prompt }}|{{ documents }}");
  BOOST_REQUIRE(t.ok());
  BOOST_TEST(t->render(*c).value() == "userhiann|whywhy|1|x|False|None");
  BOOST_TEST(t->mentions("tools"));
  BOOST_TEST(t->mentions("mode"));
  BOOST_TEST(!t->mentions("enable_thinking"));
}

BOOST_AUTO_TEST_CASE(absent_parts_of_a_context) {
  auto c = chat_context::from_json("[]");
  BOOST_REQUIRE(c.ok());
  const auto t = chat_template::parse(
      "{{ tools is none }}{{ documents is none }}{{ bos_token is defined }}{{ strftime_now is defined }}{{ messages "
      "}}");
  BOOST_TEST(t->render(*c).value() == "TrueTrueFalseFalse[]");
  c->special_tokens.emplace_back("bos_token", "<s>");
  c->now = jinja::civil_time{2024, 2, 29, 13, 4, 5};
  const auto u = chat_template::parse(
      "{{ bos_token }} {{ strftime_now('%A %d %B %Y %I:%M:%S %p %j %U %W %V %G %u %w %y %-d %e|%%|%Q') }}");
  BOOST_TEST(u->render(*c).value() == "<s> Thursday 29 February 2024 01:04:05 PM 060 08 09 09 2024 4 4 24 29 29|%|%Q");
}

BOOST_AUTO_TEST_CASE(wrong_contexts_are_named) {
  auto message = [](const auto& r) { return r.ok() ? std::string("ok") : r.error().message; };
  BOOST_TEST(message(chat_context::from_json("{}")).find("messages: not an array") == 0u);
  BOOST_TEST(message(chat_context::from_json("[1]")).find("messages[0]: not an object") == 0u);
  BOOST_TEST(message(chat_context::from_json("[")).find("messages: not valid JSON") == 0u);
  BOOST_TEST(message(chat_context::from_json("[] x")).find("messages: not valid JSON") == 0u);
  BOOST_TEST(message(chat_context::from_json("[]", "{}")).find("tools: not an array") == 0u);
  BOOST_TEST(message(chat_context::from_json("[]", "", "[]")).find("template variables: not an object") == 0u);
  const std::string deep = std::string(200, '[') + std::string(200, ']');
  BOOST_TEST(message(chat_context::from_json(deep)).find("messages: not valid JSON") == 0u);
  troupe::chat_prompt p;
  p.messages.push_back({"user", "\xff", ""});
  BOOST_TEST(message(chat_context::from_prompt(p)).find("messages[0]: role or content is not UTF-8") == 0u);
  p.messages[0] = {"user", "x", "[]"};
  BOOST_TEST(message(chat_context::from_prompt(p)).find("messages[0]: the extra fields") == 0u);
}

BOOST_AUTO_TEST_CASE(a_template_renders_from_several_threads_at_once) {
  const auto t = chat_template::parse(file("chat_styles/hermes_tools.jinja"));
  BOOST_REQUIRE(t.ok());
  const auto c = chat_context::from_json(
      R"([{"role": "user", "content": "hi"}])",
      R"([{"function": {"name": "f", "description": "d", "parameters": {"properties": {"a": {"type": "integer"}}}}}])");
  BOOST_REQUIRE(c.ok());
  const std::string expected = t->render(*c).value();
  std::vector<std::string> got(4);
  std::vector<std::thread> threads;
  for (std::string& g : got) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) g = t->render(*c).value();
    });
  }
  for (auto& th : threads) th.join();
  for (const std::string& g : got) BOOST_TEST(g == expected);
}

BOOST_AUTO_TEST_CASE(parsing_takes_well_under_a_millisecond) {
  const std::string source = file("chat_styles/llama3_tools.jinja");
  BOOST_TEST(source.size() > 4000u);
  double best = 1e9;
  for (int i = 0; i < 20; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const auto t = chat_template::parse(source);
    BOOST_REQUIRE(t.ok());
    best = std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  BOOST_TEST_MESSAGE("best of 20: " << best << " ms for " << source.size() << " bytes");
#ifndef __SANITIZE_ADDRESS__
  BOOST_TEST(best < 20.0);  // measured 0.1 ms; the bound is far because machines are shared
#endif
}

BOOST_AUTO_TEST_SUITE_END()
