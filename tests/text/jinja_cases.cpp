// What jinja2 itself makes of small templates (tests/data/make_jinja.py).
#include <boost/test/unit_test.hpp>

#include "tests/text/jinja_fixture.hpp"

using namespace jinja_tests;
using troupe::text::jinja::options;

BOOST_AUTO_TEST_CASE(templates_render_as_in_jinja2) {
  const auto lines = lines_of("jinja_cases.jsonl");
  BOOST_REQUIRE(lines.size() > 900);
  const value first = json(lines[0]);
  const value& defaults = *member(first, "vars");
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const value c = json(lines[i]);
    BOOST_REQUIRE_MESSAGE(c.is(kind::dict), "line " << i + 1);
    options how;
    if (const value* o = member(c, "o")) {
      how.trim_blocks = o->items()[0].as_bool();
      how.lstrip_blocks = o->items()[1].as_bool();
      how.keep_trailing_newline = o->items()[2].as_bool();
    }
    const value* own = member(c, "v");
    const std::string source = text_of(c, "t");
    const std::string got = render(source, own ? *own : defaults, how);
    if (member(c, "r")) {
      BOOST_CHECK_MESSAGE(got == text_of(c, "r"), "line " << i + 1 << ": " << source << "\n  gave   " << got
                                                          << "\n  wanted " << text_of(c, "r"));
      continue;
    }
    const std::string wanted = text_of(c, "e");
    BOOST_CHECK_MESSAGE(got.rfind("error: ", 0) == 0,
                        "line " << i + 1 << ": " << source << "\n  gave   " << got << "\n  wanted " << wanted);
    if (wanted.rfind("TemplateSyntaxError", 0) == 0 || wanted.rfind("TemplateAssertionError", 0) == 0) {
      const auto parsed = troupe::text::jinja::program::parse(source, how);
      BOOST_CHECK_MESSAGE(!parsed && parsed.error().code == troupe::errc::invalid_file, "line " << i + 1 << ": parsed");
    }
    const std::string raised = "TemplateError: ";
    if (wanted.rfind(raised, 0) == 0) BOOST_TEST(got == "error: " + wanted.substr(raised.size()));
  }
}
