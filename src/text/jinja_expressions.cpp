#include <fmt/format.h>

#include <algorithm>

#include "src/text/jinja_builtins.hpp"
#include "src/text/jinja_parser.hpp"

namespace troupe::text::jinja {

void parser::deepen(expr& node, const argument_list& args) {
  for (const expr_ptr& e : args.positional) deepen(node, e);
  for (const auto& [name, e] : args.named) deepen(node, e);
  deepen(node, args.more_positional);
  deepen(node, args.more_named);
}

/// Chains like a + b + c are deep without any recursion of the parser.
expr_ptr parser::check(expr_ptr node) {
  if (node->depth > how_.bounds.nesting) too_deep();
  return ok() ? std::move(node) : nullptr;
}

bool parser::tuple_ends(std::string_view end) const { return target_ends(end); }

expr_ptr parser::expression(bool with_condition) { return with_condition ? condition() : logical_or(); }

expr_ptr parser::tuple(bool with_condition, std::string_view end, bool parenthesized) {
  auto all = std::make_unique<sequence_expr>(now().line, false);
  bool is_tuple = false;
  while (ok()) {
    if (!all->items.empty() && !expect_op(",")) break;
    if (tuple_ends(end)) break;
    all->items.push_back(expression(with_condition));
    if (!now().is_op(",")) break;
    is_tuple = true;
  }
  if (!ok()) return nullptr;
  if (!is_tuple) {
    if (!all->items.empty()) return std::move(all->items.front());
    if (!parenthesized) return fail("expected an expression");
  }
  for (const expr_ptr& e : all->items) deepen(*all, e);
  return check(std::move(all));
}

expr_ptr parser::condition() {
  level here(*this);
  const std::size_t unknown_before = unknown_.size();
  expr_ptr e = logical_or();
  while (ok() && now().is_name("if")) {
    auto c = std::make_unique<condition_expr>(take().line);
    c->then = std::move(e);
    c->test = logical_or();
    if (skip_name("else")) c->otherwise = condition();
    unknown_.erase(unknown_.begin() + static_cast<std::ptrdiff_t>(unknown_before), unknown_.end());
    auto* n = c.get();
    e = made(std::move(c), n->then, n->test, n->otherwise);
  }
  return e;
}

expr_ptr parser::logical_or() {
  expr_ptr left = logical_and();
  while (ok() && now().is_name("or")) {
    const std::uint32_t line = take().line;
    expr_ptr right = logical_and();
    auto n = std::make_unique<logic_expr>(line, false, std::move(left), std::move(right));
    auto* p = n.get();
    left = made(std::move(n), p->left, p->right);
  }
  return left;
}

expr_ptr parser::logical_and() {
  expr_ptr left = logical_not();
  while (ok() && now().is_name("and")) {
    const std::uint32_t line = take().line;
    expr_ptr right = logical_not();
    auto n = std::make_unique<logic_expr>(line, true, std::move(left), std::move(right));
    auto* p = n.get();
    left = made(std::move(n), p->left, p->right);
  }
  return left;
}

expr_ptr parser::logical_not() {
  level here(*this);
  if (!ok()) return nullptr;
  if (!now().is_name("not")) return compare();
  const std::uint32_t line = take().line;
  auto n = std::make_unique<unary_expr>(line, unary_op::invert, logical_not());
  auto* p = n.get();
  return made(std::move(n), p->operand);
}

namespace {

const std::pair<std::string_view, compare_op> comparisons[] = {
    {"==", compare_op::eq}, {"!=", compare_op::ne}, {"<", compare_op::lt},
    {"<=", compare_op::le}, {">", compare_op::gt},  {">=", compare_op::ge},
};

}  // namespace

expr_ptr parser::compare() {
  auto n = std::make_unique<compare_expr>(now().line);
  n->first = sum();
  while (ok()) {
    std::optional<compare_op> op;
    for (const auto& [text, o] : comparisons) {
      if (now().is_op(text)) op = o;
    }
    if (now().is_name("in")) op = compare_op::in;
    if (now().is_name("not") && after().is_name("in")) {
      take();
      op = compare_op::not_in;
    }
    if (!op) break;
    take();
    n->rest.emplace_back(*op, sum());
  }
  if (n->rest.empty()) return std::move(n->first);
  deepen(*n, n->first);
  for (const auto& [op, e] : n->rest) deepen(*n, e);
  return check(std::move(n));
}

expr_ptr parser::sum() {
  expr_ptr left = concat();
  while (ok() && (now().is_op("+") || now().is_op("-"))) {
    const token t = take();
    expr_ptr right = concat();
    auto n = std::make_unique<arithmetic_expr>(t.line, t.text == "+" ? binary_op::add : binary_op::subtract,
                                               std::move(left), std::move(right));
    auto* p = n.get();
    left = made(std::move(n), p->left, p->right);
  }
  return left;
}

expr_ptr parser::concat() {
  auto n = std::make_unique<concat_expr>(now().line);
  n->parts.push_back(product());
  while (ok() && skip_op("~")) n->parts.push_back(product());
  if (n->parts.size() == 1) return std::move(n->parts.front());
  for (const expr_ptr& e : n->parts) deepen(*n, e);
  return check(std::move(n));
}

expr_ptr parser::product() {
  static const std::pair<std::string_view, binary_op> ops[] = {
      {"*", binary_op::multiply}, {"/", binary_op::divide}, {"//", binary_op::floor_divide}, {"%", binary_op::modulo}};
  expr_ptr left = power();
  while (ok()) {
    const auto* op = std::find_if(std::begin(ops), std::end(ops), [&](const auto& o) { return now().is_op(o.first); });
    if (op == std::end(ops)) break;
    const std::uint32_t line = take().line;
    expr_ptr right = power();
    auto n = std::make_unique<arithmetic_expr>(line, op->second, std::move(left), std::move(right));
    auto* p = n.get();
    left = made(std::move(n), p->left, p->right);
  }
  return left;
}

/// Left to right, unlike Python's **.
expr_ptr parser::power() {
  expr_ptr left = unary();
  while (ok() && now().is_op("**")) {
    const std::uint32_t line = take().line;
    expr_ptr right = unary();
    auto n = std::make_unique<arithmetic_expr>(line, binary_op::power, std::move(left), std::move(right));
    auto* p = n.get();
    left = made(std::move(n), p->left, p->right);
  }
  return left;
}

expr_ptr parser::unary(bool with_filter) {
  level here(*this);
  if (!ok()) return nullptr;
  expr_ptr e;
  if (now().is_op("-") || now().is_op("+")) {
    const token t = take();
    auto n = std::make_unique<unary_expr>(t.line, t.text == "-" ? unary_op::minus : unary_op::plus, unary(false));
    auto* p = n.get();
    e = made(std::move(n), p->operand);
  } else {
    e = primary();
  }
  e = postfix(std::move(e));
  return with_filter ? filters_and_tests(std::move(e)) : std::move(e);
}

void parser::note_load(std::string_view name) {
  for (macro_uses& m : macros_) {
    m.caller |= name == "caller";
    m.kwargs |= name == "kwargs";
    m.varargs |= name == "varargs";
  }
}

expr_ptr parser::primary() {
  if (!ok()) return nullptr;
  const token& t = now();
  const std::uint32_t line = t.line;
  auto constant = [&](value v) { return std::make_unique<constant_expr>(line, std::move(v)); };
  switch (t.kind) {
    case token_kind::name: {
      const std::string name = take().text;
      if (name == "true" || name == "True") return constant(value::boolean(true));
      if (name == "false" || name == "False") return constant(value::boolean(false));
      if (name == "none" || name == "None") return constant(value::none());
      note_load(name);
      return std::make_unique<name_expr>(line, symbols_.intern(name));
    }
    case token_kind::string: {
      std::string s = take().text;
      while (now().kind == token_kind::string) s += take().text;
      return constant(value::raw_text(std::move(s)));
    }
    case token_kind::integer:
      return constant(value::integer(take().integer));
    case token_kind::real:
      return constant(value::real(take().real));
    default:
      break;
  }
  if (t.is_op("(")) {
    take();
    expr_ptr e = tuple(true, {}, true);
    expect_op(")");
    return e;
  }
  if (t.is_op("[")) return list();
  if (t.is_op("{")) return dict();
  return fail(t.kind == token_kind::end ? std::string("unexpected end of the template")
                                        : fmt::format("unexpected '{}'", t.kind == token_kind::op ? t.text : "tag"));
}

expr_ptr parser::list() {
  auto n = std::make_unique<sequence_expr>(take().line, true);
  while (ok() && !now().is_op("]")) {
    if (!n->items.empty()) expect_op(",");
    if (now().is_op("]")) break;
    n->items.push_back(expression());
  }
  expect_op("]");
  for (const expr_ptr& e : n->items) deepen(*n, e);
  return check(std::move(n));
}

expr_ptr parser::dict() {
  auto n = std::make_unique<dict_expr>(take().line);
  while (ok() && !now().is_op("}")) {
    if (!n->items.empty()) expect_op(",");
    if (now().is_op("}")) break;
    expr_ptr key = expression();
    expect_op(":");
    expr_ptr v = expression();
    n->items.emplace_back(std::move(key), std::move(v));
  }
  expect_op("}");
  for (const auto& [k, v] : n->items) {
    deepen(*n, k);
    deepen(*n, v);
  }
  return check(std::move(n));
}

expr_ptr parser::postfix(expr_ptr e) {
  while (ok()) {
    if (now().is_op(".") || now().is_op("[")) {
      e = subscript(std::move(e));
    } else if (now().is_op("(")) {
      e = call(std::move(e));
    } else {
      break;
    }
  }
  return e;
}

expr_ptr parser::filters_and_tests(expr_ptr e) {
  while (ok()) {
    if (now().is_op("|")) {
      e = filter(std::move(e));
    } else if (now().is_name("is")) {
      e = test(std::move(e));
    } else if (now().is_op("(")) {
      e = call(std::move(e));
    } else {
      break;
    }
  }
  return e;
}

expr_ptr parser::subscript(expr_ptr of) {
  const token t = take();
  if (t.text == ".") {
    const token name = take();
    if (name.kind == token_kind::name) {
      auto n = std::make_unique<attribute_expr>(t.line, std::move(of), name.text);
      auto* p = n.get();
      return made(std::move(n), p->of);
    }
    if (name.kind != token_kind::integer) return fail_at(name.line, "expected a name or a number behind the dot");
    auto n = std::make_unique<item_expr>(t.line, std::move(of),
                                         std::make_unique<constant_expr>(t.line, value::integer(name.integer)));
    auto* p = n.get();
    return made(std::move(n), p->of);
  }
  std::vector<expr_ptr> parts;
  bool is_slice = false;
  while (ok() && !now().is_op("]")) {
    if (!parts.empty()) expect_op(",");
    parts.push_back(subscribed(is_slice));
  }
  expect_op("]");
  if (!ok()) return nullptr;
  if (parts.size() == 1 && is_slice) {
    auto* s = static_cast<slice_expr*>(parts.front().get());
    s->of = std::move(of);
    deepen(*s, s->of);
    return check(std::move(parts.front()));
  }
  expr_ptr index;
  if (parts.size() == 1) {
    index = std::move(parts.front());
  } else {
    // No value of ours can be subscribed with slices in a tuple.
    if (is_slice) return fail("slices cannot be combined");
    auto all = std::make_unique<sequence_expr>(t.line, false);
    all->items = std::move(parts);
    for (const expr_ptr& e : all->items) deepen(*all, e);
    index = check(std::move(all));
  }
  auto n = std::make_unique<item_expr>(t.line, std::move(of), std::move(index));
  auto* p = n.get();
  return made(std::move(n), p->of, p->index);
}

expr_ptr parser::subscribed(bool& is_slice) {
  auto n = std::make_unique<slice_expr>(now().line);
  if (!now().is_op(":")) {
    expr_ptr e = expression();
    if (!now().is_op(":")) return e;
    n->start = std::move(e);
  }
  take();
  is_slice = true;
  auto ends = [&] { return now().is_op("]") || now().is_op(","); };
  if (!now().is_op(":") && !ends()) n->stop = expression();
  if (skip_op(":") && !ends()) n->step = expression();
  auto* p = n.get();
  return made(std::move(n), p->start, p->stop, p->step);
}

argument_list parser::arguments() {
  argument_list out;
  const std::uint32_t line = now().line;
  expect_op("(");
  bool comma = false;
  auto ensure = [&](bool good) {
    if (!good) fail_at(line, "the arguments of a call are in a wrong order");
  };
  while (ok() && !now().is_op(")")) {
    if (comma && (!expect_op(",") || now().is_op(")"))) break;
    comma = true;
    if (skip_op("*")) {
      ensure(!out.more_positional && !out.more_named);
      out.more_positional = expression();
    } else if (skip_op("**")) {
      ensure(!out.more_named);
      out.more_named = expression();
    } else if (now().kind == token_kind::name && after().is_op("=")) {
      ensure(!out.more_named);
      std::string name = take().text;
      take();
      for (const auto& [other, e] : out.named) {
        if (other == name) fail_at(line, fmt::format("the argument '{}' is given twice", name));
      }
      out.named.emplace_back(std::move(name), expression());
    } else {
      ensure(!out.more_positional && !out.more_named && out.named.empty());
      out.positional.push_back(expression());
    }
  }
  expect_op(")");
  return out;
}

expr_ptr parser::call(expr_ptr callee) {
  auto n = std::make_unique<call_expr>(now().line);
  n->callee = std::move(callee);
  n->arguments = arguments();
  auto* p = n.get();
  return made(std::move(n), p->callee, p->arguments);
}

expr_ptr parser::filter(expr_ptr subject, bool start_inline) {
  while (ok() && (start_inline || now().is_op("|"))) {
    if (!start_inline) take();
    start_inline = false;
    auto n = std::make_unique<filter_expr>(now().line);
    n->name = expect_any_name();
    while (skip_op(".")) n->name += "." + expect_any_name();
    n->entry = find_filter(n->name);
    if (!n->entry && !may_be_unknown_) {
      unknown_.push_back(syntax_error(n->line, fmt::format("there is no filter named '{}'", n->name)));
    }
    n->subject = std::move(subject);
    if (now().is_op("(")) n->arguments = arguments();
    auto* p = n.get();
    subject = made(std::move(n), p->subject, p->arguments);
  }
  return subject;
}

expr_ptr parser::test(expr_ptr subject) {
  auto n = std::make_unique<test_expr>(take().line);
  const bool negated = skip_name("not");
  n->name = expect_any_name();
  while (skip_op(".")) n->name += "." + expect_any_name();
  n->entry = find_test(n->name);
  if (!n->entry && !may_be_unknown_) {
    unknown_.push_back(syntax_error(n->line, fmt::format("there is no test named '{}'", n->name)));
  }
  n->subject = std::move(subject);
  const token& t = now();
  const bool starts_value = t.kind == token_kind::name || t.kind == token_kind::string ||
                            t.kind == token_kind::integer || t.kind == token_kind::real || t.is_op("[") || t.is_op("{");
  if (t.is_op("(")) {
    n->arguments = arguments();
  } else if (starts_value && !t.is_name("else") && !t.is_name("or") && !t.is_name("and")) {
    if (t.is_name("is")) return fail("tests cannot be chained with is");
    n->arguments.positional.push_back(postfix(primary()));
  }
  auto* p = n.get();
  expr_ptr e = made(std::move(n), p->subject, p->arguments);
  if (!negated) return e;
  auto inverted = std::make_unique<unary_expr>(t.line, unary_op::invert, std::move(e));
  auto* q = inverted.get();
  return made(std::move(inverted), q->operand);
}

}  // namespace troupe::text::jinja
