// Templates that want too much, and templates that are broken.
#include <boost/test/unit_test.hpp>
#include <random>

#include "tests/text/jinja_fixture.hpp"

using namespace jinja_tests;
using troupe::errc;
using troupe::text::jinja::options;
using troupe::text::jinja::program;

namespace {

bool names_limit(const std::string& got, const std::string& limit) {
  return got.rfind("error: ", 0) == 0 && got.find("the limit " + limit + " (") != std::string::npos;
}

std::string repeated(const std::string& s, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += s;
  return out;
}

/// Each turn of a loop does this to a namespace.
std::string over_and_over(const std::string& step, int turns = 100000) {
  return "{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(" + std::to_string(turns) + ") %}" + step +
         "{% endfor %}";
}

}  // namespace

BOOST_AUTO_TEST_SUITE(jinja_limits)

BOOST_AUTO_TEST_CASE(each_limit_fails_by_its_name) {
  options how;
  auto with = [&](auto set, const std::string& source) {
    options o = how;
    set(o.bounds);
    return render(source, json("{}"), o);
  };
  const std::string too_long = render(std::string((1u << 20) + 1, 'x'));
  BOOST_TEST(too_long.find("template_bytes") != std::string::npos);
  BOOST_TEST(
      names_limit(with([](auto& l) { l.steps = 1000; }, "\n{% for i in range(5000) %}{{ i }}{% endfor %}"), "steps"));
  BOOST_TEST(names_limit(with([](auto& l) { l.output_bytes = 100; }, "{% for i in range(99) %}{{ i }}{% endfor %}"),
                         "output_bytes"));
  BOOST_TEST(names_limit(with([](auto& l) { l.string_bytes = 1000; }, "{% set a = 'x' * 1001 %}"), "string_bytes"));
  BOOST_TEST(names_limit(with([](auto& l) { l.memory_bytes = 10000; }, over_and_over("{% set ns.l = [i] %}")),
                         "memory_bytes"));
  BOOST_TEST(names_limit(render("{{ range(100001) }}"), "range_length"));
  BOOST_TEST(names_limit(render(over_and_over("{% set ns.l = [ns.l] %}")), "value_depth"));
  BOOST_TEST(names_limit(render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), "recursion"));
  BOOST_TEST(names_limit(render(repeated("{% if 1 %}", 500)), "nesting"));
  const std::string third_line = render("\n\n{{ range(100001) }}");
  BOOST_TEST(third_line.find("line 3") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(deep_expressions_stop_the_parser) {
  for (const std::string& source :
       {repeated("(", 5000), "{{ " + repeated("(", 5000) + "1" + repeated(")", 5000) + " }}",
        "{{ " + repeated("[", 5000) + repeated("]", 5000) + " }}",
        "{{ " + repeated("{1:", 5000) + "1" + repeated("}", 5000) + " }}", "{{ 1" + repeated(" + 1", 5000) + " }}",
        "{{ x" + repeated(".a", 5000) + " }}", "{{ x" + repeated("|e", 5000) + " }}",
        "{{ " + repeated("not ", 5000) + "1 }}", "{{ " + repeated("- ", 5000) + "1 }}",
        "{{ 1" + repeated(" if 1", 5000) + " }}",
        "{% set " + repeated("(", 5000) + "a" + repeated(")", 5000) + " = 1 %}", repeated("{% for i in [1] %}", 5000),
        "{{ 1" + repeated(" is true and 1", 5000) + " }}"}) {
    const std::string got = render(source);
    BOOST_CHECK_MESSAGE(source[0] == '(' ? got == source : names_limit(got, "nesting"),
                        source.substr(0, 20) << ": " << got.substr(0, 200));
  }
  // What real templates need is far below: Python itself stops at about this depth.
  BOOST_TEST(render("{{ 1" + repeated(" + 1", 150) + " }}") == "151");
  BOOST_TEST(render("{{ " + repeated("(", 50) + "1" + repeated(")", 50) + " }}") == "1");
}

BOOST_AUTO_TEST_CASE(values_that_grow_by_sharing_are_charged_before_they_are_walked) {
  const std::string twice = "{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}";
  BOOST_TEST(names_limit(render(over_and_over(twice, 90) + "{{ ns.l == ns.m }}"), "steps"));
  BOOST_TEST(names_limit(render(over_and_over(twice, 90) + "{{ ns.l in [ns.m] }}"), "steps"));
  const std::string printed = render(over_and_over(twice, 90) + "{{ ns.l }}");
  BOOST_TEST((names_limit(printed, "steps") || names_limit(printed, "string_bytes")));
  const std::string dumped = render(over_and_over(twice, 90) + "{{ ns.l|tojson }}");
  BOOST_TEST((names_limit(dumped, "steps") || names_limit(dumped, "string_bytes")));
  const std::string tuples = "{% set ns.l = (ns.l, ns.l) %}";
  BOOST_TEST(names_limit(
      render("{% set ns = namespace(l=1) %}{% for i in range(90) %}" + tuples + "{% endfor %}{{ {ns.l: 1} }}"),
      "steps"));
  BOOST_TEST(names_limit(render("{% set ns = namespace(l=1) %}{% for i in range(90) %}" + tuples +
                                "{% endfor %}{{ [ns.l, ns.l]|unique|list }}"),
                         "steps"));
}

BOOST_AUTO_TEST_CASE(hostile_templates_end_soon) {
  for (const std::string& source : {
           over_and_over("{% set ns.l = ns.l|map('string') %}") + "{{ ns.l|list }}",
           over_and_over("{% set ns.l = joiner(ns.l) %}"),
           over_and_over("{% set ns.l = cycler(ns.l) %}"),
           over_and_over("{% set ns.l = namespace(x=ns.l) %}") + "{{ ns.l }}",
           over_and_over("{% set ns.l = [1]|select('in', ns.l) %}") + "{{ ns.l|list }}",
           std::string("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}"),
           over_and_over("{% set ns.l = ns.l + ns.l %}"),
           std::string("{{ 'x' * 10000000000 }}"),
           std::string("{{ [1] * 10000000000 }}"),
           std::string("{{ '%1000000000s' % 1 }}"),
           std::string("{{ '{:1000000000}'.format(1) }}"),
           std::string("{{ 'a'.ljust(1000000000000) }}"),
           std::string("{{ 'a\\tb'.expandtabs(1000000000000) }}"),
           std::string("{{ 'abc'|indent(100000000000) }}"),
           std::string("{{ [1]|tojson(indent=100000000000) }}"),
           std::string("{{ 'abc'|center(100000000000) }}"),
           std::string("{{ '%.999999999f' % 1 }}"),
           std::string("{{ 2 ** 100 }}"),
           std::string("{{ 9223372036854775807 * 2 }}"),
           std::string("{{ (-9223372036854775807 - 1) // -1 }}"),
           std::string("{{ -(-9223372036854775807 - 1) }}"),
           std::string("{{ (-9223372036854775807 - 1)|abs }}"),
           std::string("{{ 1e300|int }}"),
           std::string("{{ [1]|batch(0)|list }}"),
           std::string("{{ range(-9223372036854775807, 9223372036854775807)|list }}"),
           std::string("{% for i in [1] recursive %}{{ loop([i, i]) }}{% endfor %}"),
           std::string("{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}"),
           std::string("{% macro m(a) %}{{ m([a, a]) }}{% endmacro %}{{ m(1) }}"),
           std::string("{{ ('a' * 100000).replace('', 'b' * 1000) }}"),
           std::string("{{ ([('x' * 1000000)] * 1000)|join }}"),
       }) {
    const std::string got = render(source);
    BOOST_CHECK_MESSAGE(got.rfind("error: ", 0) == 0, source << ": " << got.substr(0, 200));
  }
  // Edges that are fine.
  BOOST_TEST(render("{{ (-9223372036854775807 - 1) % -1 }}") == "0");
  BOOST_TEST(render("{{ range(9223372036854775806, 9223372036854775807)|list }}") == "[9223372036854775806]");
  BOOST_TEST(render("{{ range(-9223372036854775807, 9223372036854775807, 9223372036854775807)[::2]|list|length }}") ==
             "1");
  BOOST_TEST(render("{{ 'abc'[-9223372036854775807:9223372036854775807:9223372036854775807] }}") == "a");
  BOOST_TEST(render("{{ 'abc'[::-9223372036854775807] }}") == "c");
  BOOST_TEST(render("{% for i in [1] %}{{ loop.changed(loop) }}{% endfor %}") == "True");
}

BOOST_AUTO_TEST_CASE(errors_name_their_line_and_kind) {
  auto parse_error = [](const char* source) { return program::parse(source).error(); };
  BOOST_TEST(parse_error("\n\n{% if %}").message.find("chat template, line 3") == 0u);
  BOOST_TEST((parse_error("{{ 1 + }}").code == errc::invalid_file));
  BOOST_TEST((parse_error("{% include 'x' %}").code == errc::unsupported));
  BOOST_TEST(parse_error("a\n{{ x|nope }}").message.find("line 2: there is no filter named 'nope'") !=
             std::string::npos);
  BOOST_TEST((parse_error("\xff").code == errc::invalid_file));
  const auto p = program::parse("\n{{ messages[0]['content'] + 1 }}");
  BOOST_REQUIRE(p.ok());
  const auto r = p->render(json(R"({"messages": [{"content": "x"}]})"));
  BOOST_TEST((r.error().code == errc::invalid_argument));
  BOOST_TEST(r.error().message == "chat template, line 2: unsupported operand types for +: 'str' and 'int'");
  BOOST_TEST(p->render(json("{}")).error().message == "chat template, line 2: 'messages' is undefined");
}

namespace {

/// Broken and recombined templates: whatever comes out, it comes out as text or as a failure with a message.
void mutate(std::uint32_t seed, int count) {
  std::vector<std::string> sources;
  for (const std::string& line : lines_of("jinja_cases.jsonl")) {
    const value c = json(line);
    if (member(c, "t")) sources.push_back(text_of(c, "t"));
  }
  for (const std::string& line : lines_of("chat_models.jsonl")) {
    const value c = json(line);
    if (member(c, "template")) sources.push_back(text_of(c, "template"));
  }
  const value context = *member(json(lines_of("jinja_cases.jsonl")[0]), "vars");
  static const char* const pieces[] = {"{{",
                                       "}}",
                                       "{%",
                                       "%}",
                                       "{#",
                                       "#}",
                                       "-",
                                       "+",
                                       "(",
                                       ")",
                                       "[",
                                       "]",
                                       "{",
                                       "}",
                                       "'",
                                       "\"",
                                       "\\",
                                       "|",
                                       ".",
                                       ",",
                                       ":",
                                       "~",
                                       "**",
                                       "//",
                                       " if ",
                                       " else ",
                                       " for ",
                                       " in ",
                                       " is ",
                                       " not ",
                                       "endif",
                                       "endfor",
                                       "{% raw %}",
                                       "{% endraw %}",
                                       "loop",
                                       "loop(l)",
                                       "ns",
                                       "range(9)",
                                       "messages",
                                       "|map('upper')",
                                       "|list",
                                       "{% break %}",
                                       "{% macro m(a) %}",
                                       "{% endmacro %}",
                                       "{{ m(1) }}",
                                       "{% set x = ",
                                       "namespace(a=1)",
                                       "\xC3",
                                       "\xE6\x97\xA5",
                                       "9223372036854775807",
                                       "1e308",
                                       "none",
                                       "[::-1]",
                                       "%s",
                                       "|tojson",
                                       "recursive",
                                       "{% call m() %}",
                                       "caller()"};
  std::mt19937 rng(seed);
  auto pick = [&](std::size_t n) { return static_cast<std::size_t>(rng() % std::max<std::size_t>(n, 1)); };
  options how;
  how.bounds.steps = 20000;
  how.bounds.memory_bytes = 4u << 20;
  how.bounds.output_bytes = how.bounds.string_bytes = 1u << 16;
  int parsed = 0;
  for (int i = 0; i < count; ++i) {
    std::string s = sources[pick(sources.size())];
    for (std::size_t edits = 1 + pick(4); edits > 0; --edits) {
      const std::size_t at = pick(s.size() + 1), size = pick(12);
      switch (pick(5)) {
        case 0:
          s.erase(at, size);
          break;
        case 1:
          s.insert(at, pieces[pick(std::size(pieces))]);
          break;
        case 2:
          s.insert(at, s.substr(pick(s.size() + 1), size * 4));
          break;
        case 3:
          if (at < s.size()) s[at] = static_cast<char>(rng());
          break;
        default: {
          const std::string& other = sources[pick(sources.size())];
          s = s.substr(0, at) + other.substr(pick(other.size() + 1), 200);
        }
      }
    }
    const auto p = program::parse(s, how);
    if (!p) {
      BOOST_REQUIRE(!p.error().message.empty());
      continue;
    }
    ++parsed;
    const auto r = p->render(context, troupe::text::jinja::civil_time{});
    if (r) BOOST_REQUIRE(r->size() <= how.bounds.output_bytes);
  }
  BOOST_TEST(parsed > count / 20);
}

}  // namespace

BOOST_AUTO_TEST_CASE(mutated_templates_never_crash) { mutate(1, 4000); }

BOOST_AUTO_TEST_CASE(mutated_templates_never_crash_for_long, *boost::unit_test::label("slow")) { mutate(2, 60000); }

BOOST_AUTO_TEST_SUITE_END()
