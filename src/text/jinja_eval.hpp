#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "src/text/jinja_ast.hpp"
#include "src/text/jinja_loop.hpp"
#include "src/text/jinja_runtime.hpp"

namespace troupe::text::jinja {

/// The names that one block binds: a loop's body, a macro, a with. `if` has none of its own.
struct scope {
  explicit scope(std::shared_ptr<scope> p, const unset_names& unset = {}) : parent(std::move(p)), names(unset) {}
  std::shared_ptr<scope> parent;
  std::vector<std::pair<std::uint32_t, value>> names;
};

/// One render: walks the tree, holds the variables and the output.
class evaluator : public runtime {
 public:
  evaluator(const syntax_tree& tree, const limits& l, const value& context);
  ~evaluator() override;
  result<std::string> render();

  value call(const value& callee, call_args args) override;

 private:
  friend struct filtered_iterator;
  enum class flow : std::uint8_t { on, leave_loop, next_item };

  // variables
  value look_up(std::uint32_t symbol);
  void bind(std::uint32_t symbol, value v);
  void assign(const target& to, const value& v);
  bool assignable(const target& to);
  void assign_attribute(const target& to, const value& v);
  /// Runs with another innermost scope.
  template <class F>
  auto within(std::shared_ptr<scope> s, F f);

  // expressions (jinja_eval.cpp)
  value eval(const expr& e);
  value eval_unary(const unary_expr& e);
  value eval_concat(const concat_expr& e);
  value eval_compare(const compare_expr& e);
  value eval_condition(const condition_expr& e);
  value eval_sequence(const sequence_expr& e);
  value eval_dict(const dict_expr& e);
  value eval_slice(const slice_expr& e);
  value eval_call(const call_expr& e, const value* caller);
  value eval_filter(const filter_expr& e);
  value eval_test(const test_expr& e);
  call_args eval_arguments(const argument_list& args);

  // statements (jinja_exec.cpp)
  flow exec(const block& b);
  flow exec_one(const stmt& s);
  flow exec_branch(const branch_stmt& s);
  flow exec_loop(const loop_stmt& s, const value& over, std::int64_t depth);
  flow exec_set_block(const set_block_stmt& s);
  flow exec_filter_block(const filter_block_stmt& s);
  flow exec_with(const with_stmt& s);
  void exec_set(const set_stmt& s);
  void exec_call_block(const call_block_stmt& s);
  value make_macro(const macro_stmt& m);
  value call_macro(const macro_object& m, call_args args);
  value repeat_loop(const loop_stmt& s, const std::shared_ptr<scope>& around, value over, std::int64_t depth);
  void write(const value& v);
  void write(std::string_view s);
  /// What f writes, as a string. `f` may be cut short by a failure.
  template <class F>
  std::string captured(F f);

  const syntax_tree& tree_;
  const value& context_;
  std::string* out_ = nullptr;
  std::shared_ptr<scope> scope_;                 // null: the template itself
  std::vector<std::pair<bool, value>> globals_;  // by symbol: resolved or not, and what it is
  std::vector<std::shared_ptr<scope>> kept_;  // scopes that macros hold: emptied at the end, they may hold the macros
  const value* block_text_ = nullptr;         // what the filters of a filter block work on
};

template <class F>
auto evaluator::within(std::shared_ptr<scope> s, F f) {
  std::swap(scope_, s);
  auto out = f();
  std::swap(scope_, s);
  return out;
}

template <class F>
std::string evaluator::captured(F f) {
  std::string text;
  std::string* before = std::exchange(out_, &text);
  f();
  out_ = before;
  return text;
}

}  // namespace troupe::text::jinja
