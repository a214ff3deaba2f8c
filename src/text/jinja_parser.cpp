#include "src/text/jinja_parser.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace troupe::text::jinja {

std::uint32_t symbol_table::intern(const std::string& name) {
  auto [at, is_new] = numbers.emplace(name, static_cast<std::uint32_t>(names.size()));
  if (is_new) names.push_back(name);
  return at->second;
}

result<syntax_tree> parse(std::string_view source, const options& how) {
  auto tokens = tokenize(source, how);
  if (!tokens) return tokens.take_error();
  return parser(std::move(tokens).value(), how).run();
}

parser::parser(std::vector<token> tokens, const options& how) : tokens_(std::move(tokens)), how_(how) {
  for (const char* name : {"loop", "caller", "kwargs", "varargs"}) symbols_.intern(name);
}

result<syntax_tree> parser::run() {
  block all = statements({});
  if (failure_) return std::move(*failure_);
  if (!unknown_.empty()) return std::move(unknown_.front());
  syntax_tree tree{std::move(symbols_), std::move(all), {}};
  find_unset_names(tree);
  return tree;
}

namespace {

std::string describe(const token& t) {
  switch (t.kind) {
    case token_kind::data:
      return "text";
    case token_kind::variable_begin:
      return "{{";
    case token_kind::variable_end:
      return "}}";
    case token_kind::block_begin:
      return "{%";
    case token_kind::block_end:
      return "%}";
    case token_kind::string:
      return "a string";
    case token_kind::integer:
    case token_kind::real:
      return "a number";
    case token_kind::end:
      return "the end of the template";
    default:
      return fmt::format("'{}'", t.text);
  }
}

/// Sets a member for the time of a scope.
template <class T>
class held {
 public:
  held(T& what, T now) : what_(what), before_(what) { what_ = now; }
  ~held() { what_ = before_; }
  held(const held&) = delete;
  held& operator=(const held&) = delete;

 private:
  T& what_;
  T before_;
};

}  // namespace

token parser::take() {
  token t = now();
  if (ok() && at_ + 1 < tokens_.size()) ++at_;
  return t;
}

bool parser::skip_op(std::string_view op) {
  if (!now().is_op(op)) return false;
  take();
  return true;
}

bool parser::skip_name(std::string_view name) {
  if (!now().is_name(name)) return false;
  take();
  return true;
}

bool parser::expect_op(std::string_view op) {
  if (skip_op(op)) return true;
  fail(fmt::format("expected '{}', got {}", op, describe(now())));
  return false;
}

bool parser::expect_name(std::string_view name) {
  if (skip_name(name)) return true;
  fail(fmt::format("expected '{}', got {}", name, describe(now())));
  return false;
}

bool parser::expect(token_kind kind) {
  if (now().kind == kind) {
    take();
    return ok();
  }
  fail(fmt::format("expected {}, got {}", describe(token{kind, 0, ""}), describe(now())));
  return false;
}

std::string parser::expect_any_name() {
  if (now().kind == token_kind::name) return take().text;
  fail(fmt::format("expected a name, got {}", describe(now())));
  return {};
}

std::nullptr_t parser::fail(std::string_view what) { return fail_at(now().line, what); }

std::nullptr_t parser::fail_at(std::uint32_t line, std::string_view what) {
  if (!failure_) failure_ = syntax_error(line, what);
  return nullptr;
}

void parser::too_deep() {
  fail(
      fmt::format("the limit nesting ({}) is exceeded: simplify the template or raise the limit", how_.bounds.nesting));
}

/// Statements up to a tag of one of the names, whose name is then the current token; all, if there are no names.
block parser::statements(names ends) {
  block out;
  level here(*this);
  while (ok()) {
    const token& t = now();
    if (t.kind == token_kind::data) {
      out.push_back(std::make_unique<data_stmt>(t.line, t.text));
      take();
    } else if (t.kind == token_kind::variable_begin) {
      const std::uint32_t line = t.line;
      take();
      expr_ptr shown = tuple();
      if (!expect(token_kind::variable_end)) break;
      out.push_back(std::make_unique<print_stmt>(line, std::move(shown)));
    } else if (t.kind == token_kind::block_begin) {
      take();
      for (std::string_view end : ends) {
        if (now().is_name(end)) return out;
      }
      if (now().is_name("print")) {
        print(out);
      } else if (auto s = statement()) {
        out.push_back(std::move(s));
      }
      expect(token_kind::block_end);
    } else {
      break;
    }
  }
  if (ok() && ends.size() > 0) {
    fail(fmt::format("unexpected end of the template: {} is missing", *(ends.end() - 1)));
  }
  return out;
}

/// The inside of a block tag, from the end of its opening tag.
block parser::body(names ends) {
  skip_op(":");
  if (!expect(token_kind::block_end)) return {};
  return statements(ends);
}

std::unique_ptr<stmt> parser::statement() {
  const token& t = now();
  if (t.kind != token_kind::name) return fail("expected the name of a tag");
  if (t.text == "if") return branch();
  if (t.text == "for") return loop();
  if (t.text == "set") return set();
  if (t.text == "macro") return macro();
  if (t.text == "call") return call_block();
  if (t.text == "filter") return filter_block();
  if (t.text == "with") return with();
  if (t.text == "generation") return generation();
  if (t.text == "break" || t.text == "continue") return leave();
  for (std::string_view name : {"include", "import", "from", "extends", "block", "autoescape"}) {
    if (t.text != name) continue;
    if (!failure_) {
      failure_.emplace(
          errc::unsupported,
          fmt::format("chat template, line {}: the tag {} is not supported: write the template in one piece", t.line,
                      name));
    }
    return nullptr;
  }
  return fail(fmt::format("unknown tag '{}'", t.text));
}

void parser::print(block& into) {
  const std::uint32_t line = take().line;
  bool first = true;
  while (ok() && now().kind != token_kind::block_end) {
    if (!first && !expect_op(",")) return;
    first = false;
    into.push_back(std::make_unique<print_stmt>(line, expression()));
  }
}

std::unique_ptr<stmt> parser::branch() {
  auto s = std::make_unique<branch_stmt>(now().line);
  held soft(may_be_unknown_, true);
  for (;;) {
    take();  // if, elif
    expr_ptr test = tuple(false);
    block then = body({"elif", "else", "endif"});
    if (!ok()) return nullptr;
    s->cases.emplace_back(std::move(test), std::move(then));
    if (!now().is_name("elif")) break;
  }
  if (take().text == "else") {
    s->otherwise = body({"endif"});
    take();
  }
  return s;
}

std::unique_ptr<stmt> parser::loop() {
  auto s = std::make_unique<loop_stmt>(take().line);
  held inside(loops_, loops_ + 1);
  s->each = assign_target(false, "in");
  expect_name("in");
  s->over = tuple(false, "recursive");
  if (skip_name("if")) s->filter = expression();
  s->recursive = skip_name("recursive");
  held hard(may_be_unknown_, false);
  {
    held can_leave(in_loop_, true);
    s->body = body({"else", "endfor"});
  }
  if (!ok()) return nullptr;
  if (take().text == "else") {
    held can_leave(in_loop_, in_loop_ && !s->recursive);
    s->otherwise = body({"endfor"});
    take();
  }
  return s;
}

std::unique_ptr<stmt> parser::set() {
  const std::uint32_t line = take().line;
  target to = assign_target(true);
  if (skip_op("=")) {
    auto s = std::make_unique<set_stmt>(line);
    s->to = std::move(to);
    s->from = tuple();
    return s;
  }
  auto s = std::make_unique<set_block_stmt>(line);
  s->to = std::move(to);
  held hard(may_be_unknown_, false);
  s->filter = filter(nullptr);
  s->body = body({"endset"});
  take();
  return s;
}

void parser::signature(macro_stmt& m) {
  if (!expect_op("(")) return;
  while (ok() && !now().is_op(")")) {
    if (!m.parameters.empty() && !expect_op(",")) return;
    parameter p;
    p.name = expect_any_name();
    p.symbol = symbols_.intern(p.name);
    for (const parameter& other : m.parameters) {
      if (other.symbol == p.symbol) fail(fmt::format("two parameters are named '{}'", p.name));
    }
    if (skip_op("=")) {
      p.otherwise = expression();
    } else if (!m.parameters.empty() && m.parameters.back().otherwise) {
      fail("a parameter without a default follows one with a default");
    }
    m.parameters.push_back(std::move(p));
  }
  expect_op(")");
}

void parser::macro_body(macro_stmt& m, std::string_view end) {
  held hard(may_be_unknown_, false);
  held no_loop(in_loop_, false);
  macros_.push_back({});
  m.body = body({end});
  take();
  const macro_uses uses = macros_.back();
  macros_.pop_back();
  auto find = [&](std::string_view name) {
    return std::find_if(m.parameters.begin(), m.parameters.end(), [&](const parameter& p) { return p.name == name; });
  };
  const auto explicit_caller = find("caller");
  if (uses.caller && explicit_caller != m.parameters.end() && !explicit_caller->otherwise) {
    fail_at(m.line, "the parameter caller must be left out or have a default");
  }
  m.uses_caller = uses.caller && explicit_caller == m.parameters.end();
  m.uses_kwargs = uses.kwargs && find("kwargs") == m.parameters.end();
  m.uses_varargs = uses.varargs && find("varargs") == m.parameters.end();
}

std::unique_ptr<stmt> parser::macro() {
  auto m = std::make_unique<macro_stmt>(take().line);
  m->name = expect_any_name();
  for (std::string_view constant : {"true", "false", "none", "True", "False", "None"}) {
    if (m->name == constant) return fail(fmt::format("cannot assign to '{}'", m->name));
  }
  m->symbol = symbols_.intern(m->name);
  signature(*m);
  macro_body(*m, "endmacro");
  return m;
}

std::unique_ptr<stmt> parser::call_block() {
  auto s = std::make_unique<call_block_stmt>(take().line);
  if (now().is_op("(")) signature(s->caller);
  s->call = expression();
  if (s->call && s->call->what != expr_kind::call) return fail_at(s->line, "expected a call");
  macro_body(s->caller, "endcall");
  return s;
}

std::unique_ptr<stmt> parser::filter_block() {
  auto s = std::make_unique<filter_block_stmt>(take().line);
  held hard(may_be_unknown_, false);
  s->filter = filter(nullptr, true);
  s->body = body({"endfilter"});
  take();
  return s;
}

std::unique_ptr<stmt> parser::with() {
  auto s = std::make_unique<with_stmt>(take().line);
  while (ok() && now().kind != token_kind::block_end) {
    if (!s->bindings.empty()) expect_op(",");
    target to;
    {
      held any_name(loops_, std::size_t{0});
      to = assign_target(false);
    }
    expect_op("=");
    expr_ptr from = expression();
    s->bindings.emplace_back(std::move(to), std::move(from));
  }
  held hard(may_be_unknown_, false);
  s->body = body({"endwith"});
  take();
  return s;
}

/// Marks what the assistant said (transformers takes its position when it makes training data); renders its body.
std::unique_ptr<stmt> parser::generation() {
  auto s = std::make_unique<scoped_stmt>(take().line);
  held hard(may_be_unknown_, false);
  held no_loop(in_loop_, false);
  s->body = body({"endgeneration"});
  take();
  return s;
}

std::unique_ptr<stmt> parser::leave() {
  const token t = take();
  if (!in_loop_) return fail_at(t.line, fmt::format("'{}' outside of a loop", t.text));
  return std::make_unique<leave_stmt>(t.line, t.text == "break");
}

bool parser::target_ends(std::string_view end) const {
  const token& t = now();
  return t.kind == token_kind::variable_end || t.kind == token_kind::block_end || t.is_op(")") ||
         (!end.empty() && t.is_name(end));
}

target parser::assign_target(bool with_attribute, std::string_view end) {
  target all;
  all.what = target::form::tuple;
  bool is_tuple = false;
  while (ok()) {
    if (!all.items.empty() && !expect_op(",")) break;
    if (target_ends(end)) break;
    all.items.push_back(one_target(with_attribute));
    if (!now().is_op(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return all;
  if (all.items.empty()) {
    fail(fmt::format("expected a name, got {}", describe(now())));
    return all;
  }
  return std::move(all.items.front());
}

target parser::one_target(bool with_attribute) {
  level here(*this);
  target t;
  if (skip_op("(")) {
    t = assign_target(false);
    // "()" is an empty tuple of names; the error of assign_target stands.
    expect_op(")");
    return t;
  }
  const std::uint32_t line = now().line;
  const std::string name = expect_any_name();
  for (std::string_view constant : {"true", "false", "none", "True", "False", "None"}) {
    if (name == constant) fail_at(line, fmt::format("cannot assign to '{}'", name));
  }
  t.symbol = symbols_.intern(name);
  if (with_attribute && skip_op(".")) {
    t.what = target::form::attribute;
    t.attribute = expect_any_name();
  } else if (loops_ > 0 && t.symbol == symbol_loop) {
    fail_at(line, "cannot assign to the special variable loop inside of a for");
  }
  return t;
}

}  // namespace troupe::text::jinja
