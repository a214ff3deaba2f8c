#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/text/jinja_ast.hpp"

namespace troupe::text::jinja {

/// Jinja's grammar (jinja2/parser.py) by recursive descent. Like the evaluation it does not return errors: after the
/// first one every function gives null and the tokens seem to be at their end.
class parser {
 public:
  parser(std::vector<token> tokens, const options& how);
  result<syntax_tree> run();

 private:
  /// One level of the grammar; also counts towards the limit of nesting.
  class level {
   public:
    explicit level(parser& p) : p_(p) {
      if (++p_.depth_ > p_.how_.bounds.nesting) p_.too_deep();
    }
    ~level() { --p_.depth_; }
    level(const level&) = delete;
    level& operator=(const level&) = delete;

   private:
    parser& p_;
  };

  // tokens
  const token& now() const { return failure_ ? tokens_.back() : tokens_[at_]; }
  const token& after() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  token take();
  bool skip_op(std::string_view op);
  bool skip_name(std::string_view name);
  bool expect_op(std::string_view op);
  bool expect_name(std::string_view name);
  bool expect(token_kind kind);
  std::string expect_any_name();
  std::nullptr_t fail(std::string_view what);
  std::nullptr_t fail_at(std::uint32_t line, std::string_view what);
  void too_deep();
  bool ok() const { return !failure_; }

  // statements (jinja_parser.cpp)
  using names = std::initializer_list<std::string_view>;
  block statements(names ends);
  block body(names ends);
  std::unique_ptr<stmt> statement();
  std::unique_ptr<stmt> branch();
  std::unique_ptr<stmt> loop();
  std::unique_ptr<stmt> set();
  std::unique_ptr<stmt> macro();
  std::unique_ptr<stmt> call_block();
  std::unique_ptr<stmt> filter_block();
  std::unique_ptr<stmt> with();
  std::unique_ptr<stmt> generation();
  std::unique_ptr<stmt> leave();
  void print(block& into);
  void signature(macro_stmt& m);
  void macro_body(macro_stmt& m, std::string_view end);
  target assign_target(bool with_attribute, std::string_view end = {});
  target one_target(bool with_attribute);
  bool target_ends(std::string_view end) const;

  // expressions (jinja_expressions.cpp)
  expr_ptr expression(bool with_condition = true);
  expr_ptr tuple(bool with_condition = true, std::string_view end = {}, bool parenthesized = false);
  expr_ptr condition();
  expr_ptr logical_or();
  expr_ptr logical_and();
  expr_ptr logical_not();
  expr_ptr compare();
  expr_ptr sum();
  expr_ptr concat();
  expr_ptr product();
  expr_ptr power();
  expr_ptr unary(bool with_filter = true);
  expr_ptr primary();
  expr_ptr postfix(expr_ptr e);
  expr_ptr filters_and_tests(expr_ptr e);
  expr_ptr subscript(expr_ptr e);
  expr_ptr subscribed(bool& is_slice);
  expr_ptr filter(expr_ptr subject, bool start_inline = false);
  expr_ptr test(expr_ptr subject);
  expr_ptr call(expr_ptr callee);
  expr_ptr list();
  expr_ptr dict();
  argument_list arguments();
  bool tuple_ends(std::string_view end) const;
  void note_load(std::string_view name);

  /// Sets the depth of a node from its children and checks it.
  template <class Node, class... Child>
  expr_ptr made(std::unique_ptr<Node> node, const Child&... child) {
    (deepen(*node, child), ...);
    return check(std::move(node));
  }
  static void deepen(expr& node, const expr_ptr& child) {
    if (child && child->depth >= node.depth) node.depth = child->depth + 1;
  }
  static void deepen(expr& node, const argument_list& args);
  expr_ptr check(expr_ptr node);

  struct macro_uses {
    bool caller = false, kwargs = false, varargs = false;
  };

  std::vector<token> tokens_;
  const options& how_;
  std::size_t at_ = 0;
  std::size_t depth_ = 0;
  std::optional<failure> failure_;
  symbol_table symbols_;
  std::vector<macro_uses> macros_;  // the macros around, innermost last
  bool in_loop_ = false;            // break and continue are allowed
  std::size_t loops_ = 0;           // `loop` cannot be assigned to inside of one
  bool may_be_unknown_ = false;     // inside of if: unknown filters fail only when they are reached
  std::vector<failure> unknown_;    // filters and tests that fail the parse unless a condition guards them
};

}  // namespace troupe::text::jinja
