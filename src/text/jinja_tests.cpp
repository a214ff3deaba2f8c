#include <fmt/format.h>

#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_iter.hpp"
#include "src/text/jinja_ops.hpp"
#include "src/text/jinja_repr.hpp"

/// What can stand behind `is`.
namespace troupe::text::jinja {

namespace {

using args_t = const call_args&;

bool no_arguments(runtime& rt, args_t args) { return bound_args(rt, "test", args, {}).ok(); }

template <class Test>
bool plain(runtime& rt, args_t args, Test test) {
  return no_arguments(rt, args) && test();
}

template <compare_op Op>
bool compared(runtime& rt, const value& v, args_t args) {
  bound_args a(rt, "test", args, {""}, 1);
  return a.ok() && compare(rt, Op, v, a[0]);
}

bool leaves(runtime& rt, const value& v, const value& divisor, std::int64_t rest) {
  const value r = arithmetic(rt, binary_op::modulo, v, divisor);
  return rt.ok() && rt.same(r, value::integer(rest));
}

bool divisible_by(runtime& rt, const value& v, args_t args) {
  bound_args a(rt, "divisibleby", args, {"num"}, 1);
  return a.ok() && leaves(rt, v, a[0], 0);
}

bool is_in(runtime& rt, const value& v, args_t args) {
  bound_args a(rt, "in", args, {"seq"}, 1);
  return a.ok() && contains(rt, a[0], v);
}

bool same_as(runtime& rt, const value& v, args_t args) {
  bound_args a(rt, "sameas", args, {"other"}, 1);
  return a.ok() && same_object(v, a[0]);
}

bool has_case(runtime& rt, const value& v, args_t args, std::string_view method) {
  if (!no_arguments(rt, args)) return false;
  const value s = rt.text(to_text(rt, v));
  return rt.ok() && truth(find_text_method(method)->run(rt, s, {}));
}

bool is_callable(const value& v) {
  switch (v.type()) {
    case kind::undefined:
    case kind::macro:
    case kind::function:
    case kind::method:
    case kind::loop:
    case kind::joiner:
      return true;
    default:
      return false;
  }
}

bool is_sequence(const value& v) {
  return v.is_undefined() || v.is_string() || v.is_sequence() || v.is(kind::dict) || v.is(kind::range);
}

#define TROUPE_TEST(condition) \
  [](runtime& rt, const value& v, args_t args) -> bool { return plain(rt, args, [&] { return condition; }); }

const test_entry tests[] = {
    {"defined", TROUPE_TEST(!v.is_undefined())},
    {"undefined", TROUPE_TEST(v.is_undefined())},
    {"none", TROUPE_TEST(v.is_none())},
    {"string", TROUPE_TEST(v.is_string())},
    {"mapping", TROUPE_TEST(v.is(kind::dict))},
    {"iterable", TROUPE_TEST(is_iterable(v))},
    {"sequence", TROUPE_TEST(is_sequence(v))},
    {"number", TROUPE_TEST(v.is_number())},
    {"integer", TROUPE_TEST(v.is(kind::integer) || v.is(kind::big_integer))},
    {"float", TROUPE_TEST(v.is(kind::real))},
    {"boolean", TROUPE_TEST(v.is(kind::boolean))},
    {"true", TROUPE_TEST(v.is(kind::boolean) && v.as_bool())},
    {"false", TROUPE_TEST(v.is(kind::boolean) && !v.as_bool())},
    {"callable", TROUPE_TEST(is_callable(v))},
    {"escaped", TROUPE_TEST(v.markup())},
    {"odd", TROUPE_TEST(leaves(rt, v, value::integer(2), 1))},
    {"even", TROUPE_TEST(leaves(rt, v, value::integer(2), 0))},
    {"divisibleby", divisible_by},
    {"in", is_in},
    {"sameas", same_as},
    {"lower", [](runtime& rt, const value& v, args_t a) { return has_case(rt, v, a, "islower"); }},
    {"upper", [](runtime& rt, const value& v, args_t a) { return has_case(rt, v, a, "isupper"); }},
    {"filter", TROUPE_TEST(v.is_string() && find_filter(v.text()) != nullptr)},
    {"test", TROUPE_TEST(v.is_string() && find_test(v.text()) != nullptr)},
    {"eq", compared<compare_op::eq>},
    {"==", compared<compare_op::eq>},
    {"equalto", compared<compare_op::eq>},
    {"ne", compared<compare_op::ne>},
    {"!=", compared<compare_op::ne>},
    {"gt", compared<compare_op::gt>},
    {">", compared<compare_op::gt>},
    {"greaterthan", compared<compare_op::gt>},
    {"ge", compared<compare_op::ge>},
    {">=", compared<compare_op::ge>},
    {"lt", compared<compare_op::lt>},
    {"<", compared<compare_op::lt>},
    {"lessthan", compared<compare_op::lt>},
    {"le", compared<compare_op::le>},
    {"<=", compared<compare_op::le>},
};

}  // namespace

const test_entry* find_test(std::string_view name) { return find_entry(tests, name); }

}  // namespace troupe::text::jinja
